"""The losses of MoE language-model training, as functions of tensors.

* ``linear_cross_entropy`` joins the output head and the next-token loss. With V = 32768 words the
  logits of a step are the largest tensor of a small model; here they exist for a few hundred
  tokens at a time and the gradients are made in the same pass, so nothing of size T x V is ever
  kept (the idea of Liger Kernel, arXiv:2410.10989, section 3.2). On a CPU in float32 the whole
  pass is one C++ call, ``kernels/cpu/csrc/head_loss.h``; elsewhere it is PyTorch.
* ``load_balancing_loss`` keeps the router from sending everything to a few experts
  (Switch Transformers, arXiv:2101.03961, equation 4, per layer).
* ``router_z_loss`` keeps router logits small (ST-MoE, arXiv:2202.08906, equation 5).

Letters as in ``kernels/reference.py``, and R rows that have a target.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixtral.kernels.cpu_training import fits_kernels, load_training_kernels

# 64 rows of 32768 float32 logits are 8 MB: they stay in the processor's last-level cache.
_ROWS_AT_ONCE = 64
_MATMUL_ROWS = 1024


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean next-token loss of an output head, without keeping its logits.

    Gradients are made for what requires them, and only where autograd is on: without it, or with a
    frozen head, the matmuls that nobody needs are left out. Differentiable once.

    Args:
        hidden: [T, D], float32, bfloat16 or float64.
        weight: Output head, [V, D], same dtype.
        targets: Word to predict at each row, [T], int64, below V; -1 leaves a row out.

    Returns:
        Scalar float32 (float64 for float64): mean of -log softmax(hidden weight^T)[target] over
        the rows with a target, in nats; 0 where there is none.

    Raises:
        ValueError: A target is V or more.
    """
    if targets.device.type == "cpu" and len(targets) and int(targets.max()) >= weight.shape[0]:
        raise ValueError(
            f"targets has {int(targets.max())}; words are from 0 to {weight.shape[0] - 1}."
        )
    is_on = torch.is_grad_enabled()
    needs = (is_on and hidden.requires_grad, is_on and weight.requires_grad)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, needs)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, needs: tuple[bool, bool]
    ) -> Tensor:
        rows = (targets >= 0).nonzero()[:, 0]
        is_whole = len(rows) == len(targets)
        states = hidden if is_whole else hidden.index_select(0, rows)
        make = torch.empty_like if len(rows) else torch.zeros_like
        states_grad = make(states) if needs[0] else None
        wide = _wide(weight.dtype)
        weight_grad = make(weight, dtype=wide) if needs[1] else None
        loss = hidden.new_zeros((), dtype=wide)
        if len(rows):
            is_fit = fits_kernels(hidden, weight) and load_training_kernels() is not None
            run = _in_one_call if is_fit else _in_chunks
            wanted = targets if is_whole else targets.index_select(0, rows)
            loss = run(states, weight, wanted, states_grad, weight_grad)
        if states_grad is not None and not is_whole:
            states_grad = torch.zeros_like(hidden).index_copy_(0, rows, states_grad)
        ctx.save_for_backward(states_grad, weight_grad)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states_grad, weight_grad = ctx.saved_tensors
        return (
            None if states_grad is None else _times(states_grad, grads[0]),
            None if weight_grad is None else _times(weight_grad, grads[0]).to(ctx.dtype),
            None,
            None,
        )


def _times(grad: Tensor, scale: Tensor) -> Tensor:
    # A step of one micro-batch has scale 1, and a copy of [V, D] is dear. Elsewhere than on a
    # CPU, looking at the scale would be dearer.
    if scale.device.type == "cpu" and float(scale) == 1:
        return grad
    return grad * scale.to(grad.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _in_one_call(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    states_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> Tensor:
    """Return the mean loss of [R, D] against [V, D] and fill in the gradients, by C++."""
    kernels = load_training_kernels()
    assert kernels is not None
    losses = kernels.head_loss(
        states.contiguous(),
        weight.contiguous(),
        targets.contiguous(),
        grad_scale=1 / len(states),
        states_grad=states_grad,
        weight_grad=weight_grad,
    )
    return losses.mean()


def _in_chunks(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    states_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> Tensor:
    """As ``_in_one_call``, by PyTorch, for any device and dtype."""
    num_rows = len(states)
    if weight_grad is not None:
        weight_grad.zero_()
    total = states.new_zeros((), dtype=_wide(states.dtype))
    for begin in range(0, num_rows, _MATMUL_ROWS):
        chunk = states[begin : begin + _MATMUL_ROWS]
        scores = chunk @ weight.T  # [rows, V]; becomes the gradient of the logits
        for at in range(0, len(chunk), _ROWS_AT_ONCE):
            part = scores[at : at + _ROWS_AT_ONCE]
            total += _loss_to_gradient(part, targets[begin + at : begin + at + len(part)])
        if states_grad is not None:
            states_grad[begin : begin + len(chunk)] = scores @ weight / num_rows
        if weight_grad is not None:
            weight_grad += (scores.T @ chunk).to(weight_grad.dtype) / num_rows
    return total / num_rows


def _loss_to_gradient(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the summed loss of logits [R, V] and turn them, in place, into its gradient."""
    log_probs = torch.log_softmax(scores.to(_wide(scores.dtype)), dim=-1)
    loss = -log_probs.gather(1, targets[:, None]).sum()
    probs = log_probs.exp_()
    probs.scatter_add_(1, targets[:, None], torch.full_like(probs[:, :1], -1.0))
    scores.copy_(probs)
    return loss


def load_balancing_loss(router_logits: list[Tensor], num_experts_per_tok: int) -> Tensor:
    """Mean over layers of E * sum_e f_e P_e: 1 when the load is even, up to E when it is not.

    f_e is the share of assignments that expert e got (no gradient), P_e its mean probability
    under a softmax over all experts.

    Args:
        router_logits: L tensors [T, E], float32; rows of padding must be left out.
        num_experts_per_tok: A.

    Returns:
        Scalar float32.
    """
    logits = torch.stack(router_logits)  # [L, T, E]
    num_experts = logits.shape[-1]
    chosen = logits.detach().topk(num_experts_per_tok, dim=-1).indices.flatten(1)  # [L, T * A]
    counts = logits.new_zeros(len(logits), num_experts)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=counts.dtype))
    share = counts / chosen.shape[1]
    return num_experts * (share * logits.softmax(dim=-1).mean(dim=1)).sum(dim=1).mean()


def router_z_loss(router_logits: list[Tensor]) -> Tensor:
    """Mean squared log-partition of the routers; scalar float32.

    Args:
        router_logits: L tensors [T, E], float32.
    """
    return torch.stack(router_logits).logsumexp(dim=-1).square().mean()
