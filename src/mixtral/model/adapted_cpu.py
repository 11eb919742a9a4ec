"""Adapters as the C++ kernels want them: a table of addresses, and which sequence has which.

csrc/adapters.h says what is done with them, and why A lies in pieces of 16 ranks and B in panels of
32 rows, transposed and filled up with zeros. The scale is part of B. All of it is float32: an
adapter is small beside its model.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from mixtral.config import ModelConfig
from mixtral.kernels.cpu import CpuLibrary
from mixtral.kernels.cpu.structures import Adapters, LowRank, Model
from mixtral.model.adapter import Adapter, LoraMatrices

_PIECE, _PANEL = 16, 32  # ranks of A and rows of B that lie together


class CpuAdapters:
    """Adapters of one model, packed once and used by every step.

    Args:
        config: Geometry of the model.
        adapters: Checked for this geometry; the packed copies are kept, they are not.
    """

    def __init__(self, config: ModelConfig, adapters: Sequence[Adapter]) -> None:
        names = _weight_names(config)
        self._ranks = [adapter.max_rank for adapter in adapters]
        self._tensors: list[Tensor] = []
        self._table = (LowRank * (len(adapters) * len(names)))()
        for index, adapter in enumerate(adapters):
            for place, name in enumerate(names):
                if (matrices := adapter.matrices.get(name)) is not None:
                    self._table[index * len(names) + place] = self._pack(matrices)
        self._workspace = np.empty(0, dtype=np.uint8)

    def for_step(
        self,
        adapter_ids: Sequence[int | None],
        *,
        tokens: int,
        model: Model,
        library: CpuLibrary,
    ) -> "StepAdapters | None":
        """Describe the adapters of one step; None where no sequence has one.

        Args:
            adapter_ids: Adapter of each sequence, S values.
            tokens: T, tokens of the step.
            model: The model, as C++ knows it.
            library: Says how much workspace that takes.
        """
        used = [index for index in adapter_ids if index is not None]
        max_rank = max((self._ranks[index] for index in used), default=0)
        if not max_rank:
            return None
        needed = library.adapter_workspace_bytes(model, tokens=tokens, max_rank=max_rank)
        if needed > self._workspace.size:
            self._workspace = np.empty(needed, dtype=np.uint8)
        return StepAdapters(
            of_sequence=np.array([-1 if i is None else i for i in adapter_ids], dtype=np.int64),
            max_rank=max_rank,
            table=ctypes.addressof(self._table),
            workspace=self._workspace.ctypes.data,
        )

    def _pack(self, matrices: LoraMatrices) -> LowRank:
        a, b = packed_a(matrices.a), packed_b(matrices.b, matrices.scale)
        self._tensors += [a, b]
        return LowRank(a=a.data_ptr(), b=b.data_ptr(), rank=matrices.rank)


class StepAdapters:
    """``MixtralAdapters`` of one step; must live until the step is over."""

    def __init__(
        self,
        *,
        of_sequence: "np.ndarray[tuple[int], np.dtype[np.int64]]",
        max_rank: int,
        table: int,
        workspace: int,
    ) -> None:
        self._of_sequence = of_sequence
        self._structure = Adapters(
            max_rank=max_rank,
            table=table,
            of_sequence=of_sequence.ctypes.data,
            workspace=workspace,
        )

    @property
    def address(self) -> int:
        """Where the structure lies in memory."""
        return ctypes.addressof(self._structure)


def packed_a(a: Tensor) -> Tensor:
    """Return A [r, K] as [ceil(r / 16), K, 16], float32, filled up with zeros."""
    padded: Tensor = functional.pad(a.detach().float().cpu(), (0, 0, 0, -a.shape[0] % _PIECE))
    pieces: Tensor = padded.unflatten(0, (-1, _PIECE))
    return pieces.transpose(1, 2).contiguous()


def packed_b(b: Tensor, scale: float) -> Tensor:
    """Return scale * B for B [N, r] as [ceil(N / 32), r or r + 1, 32], filled up with zeros."""
    fill = (0, b.shape[1] % 2, 0, -b.shape[0] % _PANEL)
    padded: Tensor = functional.pad(scale * b.detach().float().cpu(), fill)
    panels: Tensor = padded.unflatten(0, (-1, _PANEL))
    return panels.transpose(1, 2).contiguous()


def _weight_names(config: ModelConfig) -> list[str]:
    """Return the weights of all layers in the order of ``MixtralAdapters.table``."""
    names = []
    for layer in range(config.num_hidden_layers):
        path = f"model.layers.{layer}."
        names += [f"{path}self_attn.{letter}_proj" for letter in "qkvo"]
        names.append(f"{path}block_sparse_moe.gate")
        for expert in range(config.num_experts):
            experts = f"{path}block_sparse_moe.experts.{expert}."
            names += [f"{experts}{linear}" for linear in ("w1", "w3", "w2")]
    return names
