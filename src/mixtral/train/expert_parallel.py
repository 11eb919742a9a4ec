"""Experts of a layer split over processes: tokens travel to their experts and back.

With ep processes and E experts, process i of the group keeps experts i * E / ep and on. A step of
one layer, for a process with T tokens:

1. route as always, and sort the T * A pairs of token and expert by expert: they now lie in order
   of the process that owns the expert;
2. tell every process how many rows it will get for each of its experts, then send the rows
   (all-to-all);
3. run the own experts, each once, on the rows of all processes;
4. send the results back the same way (all-to-all), weigh and add them where the tokens live.

No token is dropped and nothing is padded. The backward pass is the same way in reverse: gradients
of the results travel to the experts, gradients of the states travel back, so an expert's weights
get the gradient of every token that visited it, from whichever process. Sources: GShard,
arXiv:2006.16668, section 3.2; Switch Transformers, arXiv:2101.03961, section 2.3.

Letters: T tokens, A experts per token, E experts, D hidden, R rows that arrive at a process.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixtral.kernels import grouped
from mixtral.model.moe import Expert, SparseMoe, router_logits
from mixtral.model.router_trace import RouterRecorder


class LocalExperts(nn.ModuleDict):
    """The experts of a layer that live in this process, by their number in the layer."""

    def forward(self, rows: Tensor, places: Tensor) -> Tensor:
        """Run each expert once, on its rows.

        Args:
            rows: Token states, [R, D]; R may be 0.
            places: Which of the experts here each row wants, [R], int64, from 0.

        Returns:
            What the experts make of the rows, [R, D].
        """
        experts = [cast(Expert, expert) for expert in self.values()]
        if len(rows) and all(expert.is_plain for expert in experts):
            weights = torch.ones(len(rows), 1, device=rows.device)
            w1, w2, w3 = (
                [getattr(expert, name).weight for expert in experts] for name in ("w1", "w2", "w3")
            )
            # A copy: FSDP hangs its hooks on the result, and a view could lose them.
            return grouped.moe(rows, weights, places[:, None], w1, w2, w3).clone()
        order = places.argsort(stable=True)
        counts = torch.bincount(places, minlength=len(experts)).tolist()
        pieces = rows.index_select(0, order).split(counts)
        # Experts without rows run, too: a process to which nothing comes needs a graph as well.
        results = torch.cat([expert(p) for expert, p in zip(experts, pieces, strict=True)])
        return torch.empty_like(results).index_copy(0, order, results)


class ExpertParallelMoe(SparseMoe):
    """Stands in for a ``SparseMoe``; gate and experts keep their names in the state dict.

    Args:
        moe: The whole layer; its experts of other processes are let go.
        group: The processes that share the experts, in the order of the experts.
    """

    def __init__(self, moe: SparseMoe, group: dist.ProcessGroup) -> None:
        nn.Module.__init__(self)  # not the parent's, which would make all experts
        self.num_experts_per_tok = moe.num_experts_per_tok
        self.gate = moe.gate
        self.jitter, self.jitter_seed = moe.jitter, moe.jitter_seed
        self._group = group
        self._num_experts = len(moe.experts)
        per_process = self._num_experts // group.size()
        first = group.rank() * per_process
        self.experts = LocalExperts(  # type: ignore[assignment]
            {str(i): moe.experts[i] for i in range(first, first + per_process)}
        )

    def forward(self, x: Tensor, recorder: RouterRecorder | None = None) -> Tensor:
        """Return [T, D] for token states [T, D]; notes the routing in ``recorder``."""
        jitter = self.jitter if self.training else 0.0
        logits = router_logits(self.gate, x, jitter=jitter, seed=self.jitter_seed)  # [T, E]
        routing_weights, expert_ids = grouped.route(logits, self.num_experts_per_tok)
        if recorder is not None:
            recorder.add(expert_ids, routing_weights, logits)
        order = expert_ids.flatten().argsort(stable=True)  # [T * A], sorted by expert
        token_ids = order.div(self.num_experts_per_tok, rounding_mode="floor")
        outputs = self._visit_experts(x.index_select(0, token_ids), expert_ids)
        weights = routing_weights.flatten().index_select(0, order)
        weighted = outputs.float() * weights[:, None]  # [T * A, D]
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        return out.index_add(0, token_ids, weighted).to(x.dtype)

    def _visit_experts(self, states: Tensor, expert_ids: Tensor) -> Tensor:
        """Return what the experts make of rows [T * A, D] that are sorted by expert."""
        size = self._group.size()
        sent = torch.bincount(expert_ids.flatten(), minlength=self._num_experts).view(size, -1)
        arriving = torch.empty_like(sent)  # [ep, E / ep]: rows of each sender for each own expert
        dist.all_to_all_single(arriving, sent, group=self._group)
        num_sent, num_arriving = sent.sum(1).tolist(), arriving.sum(1).tolist()
        rows = exchange_rows(states, num_sent, num_arriving, self._group)  # [R, D], by sender
        places = torch.arange(arriving.shape[1], device=rows.device).repeat(size)
        results = self.experts(rows, places.repeat_interleave(arriving.flatten()))
        return exchange_rows(results, num_arriving, num_sent, self._group)


def exchange_rows(
    rows: Tensor, num_sent: Sequence[int], num_arriving: Sequence[int], group: dist.ProcessGroup
) -> Tensor:
    """Send the first rows to the first process, the next ones to the second, and so on.

    Differentiable: the gradient takes the opposite way.

    Args:
        rows: [R, D], any float dtype.
        num_sent: Rows for each process of the group; they sum to R.
        num_arriving: Rows from each process of the group.
        group: Who takes part; every member must call this.

    Returns:
        What arrived, in the order of the senders, [sum of num_arriving, D].
    """
    result: Tensor = _ExchangeRows.apply(rows, list(num_sent), list(num_arriving), group)  # type: ignore[no-untyped-call]
    return result


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sent: list[int], arriving: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sent, ctx.arriving, ctx.group = sent, arriving, group
        return _all_to_all(rows, sent, arriving, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grads[0], ctx.arriving, ctx.sent, ctx.group), None, None, None


def _all_to_all(
    rows: Tensor, sent: list[int], arriving: list[int], group: dist.ProcessGroup
) -> Tensor:
    out = rows.new_empty(sum(arriving), rows.shape[1])
    dist.all_to_all_single(out, rows.contiguous(), arriving, sent, group=group)
    return out
