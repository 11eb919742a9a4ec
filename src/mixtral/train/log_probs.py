"""Log-probability of each given token, without keeping any logits.

A preference loss bends the log-probs of whole answers, so the gradient of one token is not known
before all of them are. What can be made in advance is how a token's log-prob changes with its own
state, which is a row of D numbers:

    z = W h,  p = softmax(z),  log p[y] = z[y] - log sum exp z
    d log p[y] / dh = W[y] - W^T p               [D], kept for each counted row
    d log p[y] / dW = (one-hot(y) - p) h^T       [V, D], only where the head is trained

The first line's gradient needs no second look at the logits: backward scales the kept rows. The
second does; its logits are made again, a few rows at a time. With LoRA the head is frozen and the
whole costs two products with W instead of three.

Letters as in ``kernels/reference.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixtral.model import TokenBatch, Transformer

TokenScorer = Callable[[TokenBatch, Tensor], Tensor]
"""Scores given tokens with some model: (batch, targets [T], -1 not counted) -> log-probs [T],
float32, nats, without a graph."""

_MATMUL_ROWS = 1024
# 64 rows of 32768 float32 logits are 8 MB: they stay in a processor's last-level cache.
_SOFTMAX_ROWS_CPU = 64


def token_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of the wanted word at each row, with gradients.

    Sums are taken in float32, or in float64 where that is the dtype of ``hidden``. Without
    gradients (``torch.no_grad``) nothing is kept, and half of the work is left out.

    Args:
        hidden: [T, D], float32, bfloat16 or float64.
        weight: Output head, [V, D], same dtype; its gradient is made only if it requires one.
        targets: Word to score at each row, [T], int64 below V; -1 leaves a row out.

    Returns:
        [T], float32 (float64 for float64): log softmax(hidden weight^T)[target] in nats; 0 where
        the target is -1.
    """
    keeps_rows = torch.is_grad_enabled() and hidden.requires_grad
    log_probs: Tensor = _TokenLogProbs.apply(hidden, weight, targets, keeps_rows)  # type: ignore[no-untyped-call]
    return log_probs


def frozen_scorer(model: Transformer) -> TokenScorer:
    """Return a scorer that runs a model as it is at each call, without dropout and router jitter.

    The model's modes (training or evaluation) are as before after each call.
    """

    @torch.no_grad()
    def score(batch: TokenBatch, targets: Tensor) -> Tensor:
        with evaluating(model):
            return token_log_probs(model(batch), model.lm_head.weight, targets)

    return score


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; at the end each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, keeps_rows: bool
    ) -> Tensor:
        rows = (targets >= 0).nonzero()[:, 0]
        wanted = targets[rows]
        states = hidden[rows]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        log_sums = torch.empty(len(rows), dtype=wide, device=hidden.device)
        found = torch.empty_like(log_sums)
        kept = torch.empty_like(states if keeps_rows else states[:0])
        for part in _parts(len(rows), _MATMUL_ROWS):
            scores = states[part] @ weight.T  # [rows, V]
            found[part] = scores.gather(1, wanted[part, None])[:, 0].to(wide)
            log_sums[part] = _log_sums(scores)
            if keeps_rows:
                _to_probs(scores, log_sums[part])
                kept[part] = weight[wanted[part]] - scores @ weight
        ctx.save_for_backward(hidden, weight, rows, wanted, log_sums, kept)
        log_probs = torch.zeros(len(targets), dtype=wide, device=hidden.device)
        log_probs[rows] = found - log_sums
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, rows, wanted, log_sums, kept = ctx.saved_tensors
        row_grads = grads[0][rows]  # [R]
        hidden_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            hidden_grad = torch.zeros_like(hidden)
            hidden_grad[rows] = (kept * row_grads[:, None]).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad = _head_gradient(hidden[rows], weight, wanted, log_sums, row_grads)
        return hidden_grad, weight_grad, None, None


def _head_gradient(
    states: Tensor, weight: Tensor, wanted: Tensor, log_sums: Tensor, row_grads: Tensor
) -> Tensor:
    """Return sum over rows of g (one-hot - p) h^T, [V, D], from logits made again."""
    total = torch.zeros(weight.shape, dtype=log_sums.dtype, device=weight.device)
    for part in _parts(len(states), _MATMUL_ROWS):
        scores = states[part] @ weight.T
        _to_probs(scores, log_sums[part])
        scaled = states[part] * -row_grads[part, None].to(states.dtype)
        total += scores.T @ scaled
    total.index_add_(0, wanted, states.to(total.dtype) * row_grads[:, None])
    return total.to(weight.dtype)


def _log_sums(scores: Tensor) -> Tensor:
    """Return log sum exp of each row of [R, V], [R], float32 or wider."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    sums = [scores[part].to(wide).logsumexp(dim=-1) for part in _softmax_parts(scores)]
    return torch.cat(sums)


def _to_probs(scores: Tensor, log_sums: Tensor) -> None:
    """Turn logits [R, V] into probabilities, in place."""
    for part in _softmax_parts(scores):
        rows = scores[part].to(log_sums.dtype)
        scores[part] = rows.sub_(log_sums[part, None]).exp_().to(scores.dtype)


def _softmax_parts(scores: Tensor) -> Iterator[slice]:
    # On a GPU a launch costs more than a trip to memory.
    return _parts(len(scores), _SOFTMAX_ROWS_CPU if scores.device.type == "cpu" else len(scores))


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
