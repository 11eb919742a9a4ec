"""Adapters of some rows of a step, in PyTorch: y += scale * B (A x) where a row has one.

The base runs once on all rows; then each adapter adds its part to the rows that belong to it (LoRA,
arXiv:2106.09685, section 4.1). Rows without an adapter are not touched. ``csrc/adapters.h`` does
the same for the C++ model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixtral.kernels import grouped
from mixtral.model.adapter import Adapter
from mixtral.model.batch import TokenBatch
from mixtral.model.moe import Expert, SparseMoe, router_logits
from mixtral.model.router_trace import RouterRecorder


class AdaptedRows:
    """Which rows belong to which adapter.

    Args:
        adapters: Adapters, on the device of the rows.
        ids: Place of each row's adapter among them, -1 for none, [T], int64.
    """

    def __init__(self, adapters: Sequence[Adapter], ids: Tensor) -> None:
        self._adapters = adapters
        self._ids = ids
        present = [index for index in ids.unique().tolist() if index >= 0]
        self._rows = [(adapters[index], (ids == index).nonzero().flatten()) for index in present]

    @classmethod
    def of_batch(cls, adapters: Sequence[Adapter], batch: TokenBatch) -> "AdaptedRows | None":
        """Return the rows of a step; None where no sequence has an adapter."""
        if all(index is None for index in batch.adapter_ids):
            return None
        ids = torch.tensor([-1 if index is None else index for index in batch.adapter_ids])
        lengths = torch.tensor(batch.starts).diff()
        return cls(adapters, ids.repeat_interleave(lengths).to(batch.input_ids.device))

    def select(self, rows: Tensor) -> "AdaptedRows":
        """Return what belongs to some of the rows, [R], int64, in their order."""
        return AdaptedRows(self._adapters, self._ids.index_select(0, rows))

    def add(self, out: Tensor, x: Tensor, name: str) -> Tensor:
        """Return outputs [T, N] of a linear with what the adapters add to them.

        Args:
            out: What the base gives for ``x``.
            x: Inputs of the linear, [T, K].
            name: Module path of the linear.
        """
        for adapter, rows in self._rows:
            matrices = adapter.matrices.get(name)
            if matrices is None:
                continue
            low = functional.linear(x.index_select(0, rows).float(), matrices.a)  # [R, r]
            delta = matrices.scale * functional.linear(low, matrices.b)
            out = out.index_add(0, rows, delta.to(out.dtype))
        return out


def run_linear(linear: nn.Module, x: Tensor, name: str, adapted: AdaptedRows | None) -> Tensor:
    """Run a linear, [T, K] to [T, N], with the adapters of its rows."""
    out = cast(Tensor, linear(x))
    return out if adapted is None else adapted.add(out, x, name)


def run_moe(
    moe: SparseMoe, x: Tensor, path: str, adapted: AdaptedRows, recorder: RouterRecorder | None
) -> Tensor:
    """Run router and experts, [T, D] to [T, D], with the adapters of each row.

    Args:
        moe: Router and experts of one layer.
        x: Token states, [T, D].
        path: Module path of ``moe``.
        adapted: Adapters of the rows of ``x``.
        recorder: Notes what the router decides.

    Returns:
        [T, D], dtype of ``x``; summed in float32, in the order of expert ids.
    """
    experts = [cast(Expert, expert) for expert in moe.experts]
    if not moe.num_experts_per_tok:
        return _run_expert(experts[0], x, f"{path}.experts.0", adapted)
    logits = adapted.add(router_logits(moe.gate, x), x, f"{path}.gate")  # [T, E]
    routing_weights, expert_ids = grouped.route(logits, moe.num_experts_per_tok)
    if recorder is not None:
        recorder.add(expert_ids, routing_weights, logits)
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for index in expert_ids.unique().tolist():  # sorted
        rows, choices = (expert_ids == index).nonzero(as_tuple=True)
        part = _run_expert(experts[index], x[rows], f"{path}.experts.{index}", adapted.select(rows))
        out = out.index_add(0, rows, part.float() * routing_weights[rows, choices, None])
    return out.to(x.dtype)


def on_device(adapter: Adapter, device: torch.device) -> Adapter:
    """Return an adapter whose matrices are on a device, float32 and without gradients."""
    matrices = {
        name: replace(m, a=m.a.detach().float().to(device), b=m.b.detach().float().to(device))
        for name, m in adapter.matrices.items()
    }
    return replace(adapter, matrices=matrices)


def _run_expert(expert: Expert, x: Tensor, path: str, adapted: AdaptedRows) -> Tensor:
    gate = run_linear(expert.w1, x, f"{path}.w1", adapted)
    hidden = functional.silu(gate) * run_linear(expert.w3, x, f"{path}.w3", adapted)
    return run_linear(expert.w2, hidden, f"{path}.w2", adapted)
