"""Losses of preference pairs, as pure functions of the log-probs of whole answers.

A pair is a prompt with a chosen and a rejected answer. The trained model is the policy, the frozen
model that it started from the reference. With the implicit reward of an answer

    r(x, y) = beta * (log policy(y | x) - log reference(y | x))

and the margin r(chosen) - r(rejected):

* DPO (arXiv:2305.18290, equation 7): -log sigmoid(margin).
* Conservative DPO (https://ericmitchell.ai/cdpo.pdf): a share ``label_smoothing`` of
  the pairs is held to be the wrong way round; the margin then has a finite best value.
* IPO (arXiv:2310.12036, equation 17): (margin / beta - 1 / (2 beta))^2, per token.
* An SFT term (arXiv:2404.19733, equation 1): -log policy(chosen) per token. DPO alone is content
  when both answers become less likely, the rejected one faster.

Worked example, beta = 0.1: the policy gives log-probs -10 and -14, the reference -12 and -13.
The log-ratios are 2 and -1, the rewards 0.2 and -0.1, the margin 0.3, and the DPO loss
-log sigmoid(0.3) = log(1 + e^-0.3) = 0.5544.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.train.dpo_settings import DpoSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogProbs:
    """Log-probs of both answers of P pairs, each summed over the answer's tokens."""

    policy_chosen: Tensor
    """[P], float32, nats; carries the gradient."""
    policy_rejected: Tensor
    """[P], float32, nats; carries the gradient."""
    reference_chosen: Tensor
    """[P], float32, nats."""
    reference_rejected: Tensor
    """[P], float32, nats."""
    chosen_lengths: Tensor
    """Tokens of each chosen answer, [P], at least 1."""
    rejected_lengths: Tensor
    """Tokens of each rejected answer, [P], at least 1."""

    def log_ratios(self, *, per_token: bool) -> tuple[Tensor, Tensor]:
        """Return log policy - log reference of the chosen and the rejected answers, [P] each."""
        chosen = self.policy_chosen - self.reference_chosen
        rejected = self.policy_rejected - self.reference_rejected
        if per_token:
            return chosen / self.chosen_lengths, rejected / self.rejected_lengths
        return chosen, rejected


def preference_losses(log_probs: PairLogProbs, settings: DpoSettings) -> Tensor:
    """Loss of each pair, in nats for dpo and squared nats for ipo, with the SFT term.

    Args:
        log_probs: Scores of P pairs.
        settings: ``loss``, ``beta``, ``label_smoothing``, ``sft_coef``, ``length_normalised``.

    Returns:
        [P], float32.
    """
    chosen, rejected = log_probs.log_ratios(per_token=_is_per_token(settings))
    if settings.loss == "ipo":
        losses = ipo_losses(chosen - rejected, beta=settings.beta)
    else:
        margins = settings.beta * (chosen - rejected)
        losses = dpo_losses(margins, label_smoothing=settings.label_smoothing)
    if settings.sft_coef:
        losses = losses + settings.sft_coef * sft_losses(log_probs)
    return losses


def dpo_losses(margins: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen answer is the better one.

    Args:
        margins: Reward margins, [P].
        label_smoothing: Chance that a pair is the wrong way round.

    Returns:
        [P], nats: -(1 - e) log sigmoid(margin) - e log sigmoid(-margin).
    """
    right = -functional.logsigmoid(margins)
    if not label_smoothing:
        return right
    wrong = -functional.logsigmoid(-margins)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def ipo_losses(log_ratio_margins: Tensor, *, beta: float) -> Tensor:
    """Squared distance of the margin from 1 / (2 beta).

    Args:
        log_ratio_margins: Log-ratio of the chosen answer minus that of the rejected one, [P]. The
            paper does not speak of length; per-token averages are what its authors used, and what
            TRL does: otherwise a long answer asks for a hundred times the margin of a short one.
        beta: tau of the paper.

    Returns:
        [P], squared nats.
    """
    return (log_ratio_margins - 1 / (2 * beta)).square()


def sft_losses(log_probs: PairLogProbs) -> Tensor:
    """Next-token loss of each chosen answer, [P], nats per token."""
    return -log_probs.policy_chosen / log_probs.chosen_lengths


@torch.no_grad()
def preference_metrics(log_probs: PairLogProbs, settings: DpoSettings) -> dict[str, float]:
    """Means over the pairs that tell how training goes.

    ``reward_*`` are beta times the log-ratios as the loss sees them, so per token where it is.
    ``reward_accuracy`` is the share of pairs with a margin above 0; before the first step, when
    policy and reference are one, it means nothing.
    ``preference_accuracy`` asks the policy alone: the share of pairs whose chosen answer has the
    greater log-prob, per token where the loss is; it compares a model before and after.
    ``kl`` is log reference - log policy per token of both answers, in nats. It estimates
    KL(reference || policy) if the reference could have written them; otherwise it may be below 0.
    ``log_prob_*`` are sums over an answer.

    Args:
        log_probs: Scores of P pairs, P at least 1.
        settings: ``loss``, ``beta``, ``length_normalised``.
    """
    per_token = _is_per_token(settings)
    chosen, rejected = log_probs.log_ratios(per_token=per_token)
    chosen_lengths = log_probs.chosen_lengths if per_token else 1
    rejected_lengths = log_probs.rejected_lengths if per_token else 1
    is_preferred = (
        log_probs.policy_chosen / chosen_lengths > log_probs.policy_rejected / rejected_lengths
    )
    values = {
        "reward_chosen": settings.beta * chosen,
        "reward_rejected": settings.beta * rejected,
        "reward_margin": settings.beta * (chosen - rejected),
        "reward_accuracy": chosen > rejected,
        "preference_accuracy": is_preferred,
        "kl": _drift(log_probs),
        "log_prob_chosen": log_probs.policy_chosen,
        "log_prob_rejected": log_probs.policy_rejected,
        "sft_loss": sft_losses(log_probs),
    }
    # One transfer from the device, not nine.
    means = torch.stack([value.float().mean() for value in values.values()]).tolist()
    return dict(zip(values, means, strict=True))


def _drift(log_probs: PairLogProbs) -> Tensor:
    """Return log reference - log policy of each pair per token, [P]."""
    chosen, rejected = log_probs.log_ratios(per_token=False)
    return -(chosen + rejected) / (log_probs.chosen_lengths + log_probs.rejected_lengths)


def _is_per_token(settings: DpoSettings) -> bool:
    return settings.length_normalised or settings.loss == "ipo"
