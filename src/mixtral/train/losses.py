"""The losses of MoE language-model training, as functions of tensors.

* ``linear_cross_entropy`` joins the output head and the next-token loss. With V = 32768 words the
  logits of a step are the largest tensor of a small model; here they exist for a few tokens at a
  time and the gradients are made in the same pass, so nothing of size T x V is ever kept.
* ``load_balancing_loss`` keeps the router from sending everything to a few experts
  (Switch Transformers, arXiv:2101.03961, equation 4, per layer).
* ``router_z_loss`` keeps router logits small (ST-MoE, arXiv:2202.08906, equation 5).

Letters as in ``kernels/reference.py``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# 64 rows of 32768 float32 logits are 8 MB: they stay in the processor's last-level cache.
_ROWS_AT_ONCE = 64
_MATMUL_ROWS = 1024


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean next-token loss of an output head, without keeping its logits.

    Args:
        hidden: [T, D], float32 or bfloat16.
        weight: Output head, [V, D], same dtype.
        targets: Word to predict at each row, [T], int64; -1 leaves a row out.

    Returns:
        Scalar float32: mean of -log softmax(hidden weight^T)[target] over the rows with a target,
        in nats; 0 where there is none.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = (targets >= 0).nonzero()[:, 0]
        if not len(rows):
            ctx.save_for_backward(torch.zeros_like(hidden), torch.zeros_like(weight))
            return hidden.new_zeros((), dtype=torch.float32)
        wanted = targets[rows]
        states = hidden[rows]
        hidden_grad = torch.empty_like(states)
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(rows), _MATMUL_ROWS):
            end = min(begin + _MATMUL_ROWS, len(rows))
            chunk = states[begin:end]
            scores = chunk @ weight.T  # [rows, V]; becomes the gradient of the logits
            for at in range(0, end - begin, _ROWS_AT_ONCE):
                part = scores[at : at + _ROWS_AT_ONCE]
                total += _loss_to_gradient(part, wanted[begin + at : begin + at + len(part)])
            hidden_grad[begin:end] = scores @ weight
            weight_grad += (scores.T @ chunk).float()
        full_grad = torch.zeros_like(hidden)
        full_grad[rows] = hidden_grad / len(rows)
        ctx.save_for_backward(full_grad, (weight_grad / len(rows)).to(weight.dtype))
        return total / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0]
        return hidden_grad * scale.to(hidden_grad.dtype), weight_grad * scale, None


def _loss_to_gradient(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the summed loss of logits [R, V] and turn them, in place, into its gradient."""
    log_probs = torch.log_softmax(scores.float(), dim=-1)
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
    losses = []
    for logits in router_logits:
        num_experts = logits.shape[-1]
        chosen = logits.topk(num_experts_per_tok, dim=-1).indices
        share = torch.bincount(chosen.flatten(), minlength=num_experts) / chosen.numel()
        losses.append(num_experts * (share * logits.softmax(dim=-1).mean(dim=0)).sum())
    return torch.stack(losses).mean()


def router_z_loss(router_logits: list[Tensor]) -> Tensor:
    """Mean squared log-partition of the routers; scalar float32.

    Args:
        router_logits: L tensors [T, E], float32.
    """
    return torch.stack([x.logsumexp(dim=-1).square().mean() for x in router_logits]).mean()
