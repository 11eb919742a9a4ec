"""Preference losses against numbers worked by hand, and against those of TRL."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral.errors import ConfigError
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.preference_loss import (
    PairLogProbs,
    dpo_losses,
    ipo_losses,
    preference_losses,
    preference_metrics,
)

GOLDEN = Path(__file__).parents[1] / "data" / "reference" / "dpo_golden.json"


def one_pair(**changes: float) -> PairLogProbs:
    """Return a pair with log-ratios 2 and -1, its answers of 4 and 2 tokens."""
    values = {
        "policy_chosen": -10.0,
        "policy_rejected": -14.0,
        "reference_chosen": -12.0,
        "reference_rejected": -13.0,
        "chosen_lengths": 4,
        "rejected_lengths": 2,
    }
    return PairLogProbs(**{name: torch.tensor([v]) for name, v in (values | changes).items()})


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        # margin 0.1 (2 + 1) = 0.3; e^-0.3 = 0.740818; log 1.740818
        ({}, 0.554355),
        # the other way round log(1 + e^0.3) = 0.554355 + 0.3; 0.9 * 0.554355 + 0.1 * 0.854355
        ({"label_smoothing": 0.1}, 0.584355),
        # per token 2 / 4 + 1 / 2 = 1, margin 0.1; e^-0.1 = 0.904837; log 1.904837
        ({"length_normalised": True}, 0.644397),
        # 1 / (2 * 0.1) = 5; (1 - 5)^2
        ({"loss": "ipo"}, 16.0),
        # 0.554355 + 0.5 * 10 / 4
        ({"sft_coef": 0.5}, 1.804355),
        # (1 - 5)^2 + 0.5 * 10 / 4
        ({"loss": "ipo", "sft_coef": 0.5}, 17.25),
    ],
)
def test_loss_is_the_one_worked_by_hand(settings: dict[str, Any], wanted: float) -> None:
    loss = preference_losses(one_pair(), DpoSettings(beta=0.1, **settings))
    assert loss.shape == (1,)
    assert float(loss) == pytest.approx(wanted, abs=2e-6)


def test_metrics_are_those_worked_by_hand() -> None:
    metrics = preference_metrics(one_pair(), DpoSettings(beta=0.1))
    assert metrics == pytest.approx(
        {
            "reward_chosen": 0.2,
            "reward_rejected": -0.1,
            "reward_margin": 0.3,
            "reward_accuracy": 1.0,
            "preference_accuracy": 1.0,  # -10 > -14
            "kl": -1 / 6,  # -(2 - 1) over 4 + 2 tokens
            "log_prob_chosen": -10.0,
            "log_prob_rejected": -14.0,
            "sft_loss": 2.5,
        }
    )


def test_per_token_metrics_compare_answers_per_token() -> None:
    # Sums: -10 < -9. Per token: -10 / 4 = -2.5 > -9 / 2 = -4.5; ratios 2 / 4 and 4 / 2.
    pair = one_pair(policy_rejected=-9.0)
    summed = preference_metrics(pair, DpoSettings(beta=0.1))
    averaged = preference_metrics(pair, DpoSettings(beta=0.1, length_normalised=True))
    assert summed["preference_accuracy"] == 0
    assert averaged["preference_accuracy"] == 1
    assert averaged["reward_margin"] == pytest.approx(0.1 * (0.5 - 2.0))
    assert preference_metrics(pair, DpoSettings(loss="ipo"))["preference_accuracy"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label_smoothing": 0.2},
        {"length_normalised": True},
        {"loss": "ipo"},
        {"sft_coef": 1.0},
    ],
)
def test_gradient_pushes_chosen_up_and_rejected_down(settings: dict[str, Any]) -> None:
    pair = one_pair()
    for leaf in (pair.policy_chosen, pair.policy_rejected):
        leaf.requires_grad_()
    preference_losses(pair, DpoSettings(**settings)).sum().backward()
    assert pair.policy_chosen.grad is not None
    assert pair.policy_rejected.grad is not None
    assert float(pair.policy_chosen.grad) < 0
    assert float(pair.policy_rejected.grad) > 0


def test_smoothed_and_ipo_losses_have_a_best_margin_and_dpo_has_none() -> None:
    # Smoothed: sigmoid(margin) = 1 - e. IPO: 1 / (2 beta).
    margins = torch.tensor([math.log(0.9 / 0.1), 2.5, 20.0], requires_grad=True)
    losses = torch.stack(
        [
            dpo_losses(margins[:1], label_smoothing=0.1)[0],
            ipo_losses(margins[1:2], beta=0.2)[0],
            dpo_losses(margins[2:])[0],
        ]
    )
    losses.sum().backward()
    assert margins.grad is not None
    assert margins.grad[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert margins.grad[2] < 0


def test_large_margins_stay_finite() -> None:
    margins = torch.tensor([-1e4, 1e4])
    assert dpo_losses(margins).tolist() == [1e4, 0]


@pytest.mark.parametrize("case", range(3))
def test_each_loss_and_reward_is_that_of_trl(case: int) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    beta, expected = golden["beta"], golden["cases"][case]
    pair = one_pair(**expected["log_probs"])

    def ours(**settings: Any) -> float:
        return float(preference_losses(pair, DpoSettings(beta=beta, **settings)))

    wanted = expected["losses"]
    tolerance = {"rel": 1e-4, "abs": 1e-5}  # TRL's sums over an answer are in float32, too.
    assert ours() == pytest.approx(wanted["dpo"], **tolerance)
    assert ours(loss="ipo") == pytest.approx(wanted["ipo"], **tolerance)
    assert ours(length_normalised=True) == pytest.approx(wanted["dpo_per_token"], **tolerance)
    with_sft = wanted["dpo"] + 0.5 * wanted["sft"]
    assert ours(sft_coef=0.5) == pytest.approx(with_sft, **tolerance)
    smoothed = 0.8 * wanted["dpo"] + 0.2 * wanted["dpo_exchanged"]
    assert ours(label_smoothing=0.2) == pytest.approx(smoothed, **tolerance)
    metrics = preference_metrics(pair, DpoSettings(beta=beta))
    names = {"chosen": "chosen", "rejected": "rejected", "margin": "margins"}
    for name, theirs in (names | {"accuracy": "accuracies"}).items():
        wanted_value = expected["metrics"][f"rewards/{theirs}"]
        assert metrics[f"reward_{name}"] == pytest.approx(wanted_value, **tolerance)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0}, "dpo.beta is 0"),
        ({"beta": math.nan}, "dpo.beta is nan"),
        ({"loss": "kto"}, "dpo.loss is 'kto'; it must be dpo or ipo"),
        ({"loss": ["dpo"]}, "dpo.loss is"),
        ({"label_smoothing": 0.5}, "dpo.label_smoothing is 0.5; .* from 0 to below 0.5"),
        ({"label_smoothing": "no"}, "dpo.label_smoothing is 'no'"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "only the loss dpo can be smoothed"),
        ({"sft_coef": -1}, "dpo.sft_coef is -1; it must be a finite number at least 0"),
        ({"sft_coef": math.inf}, "dpo.sft_coef is inf"),
        ({"length_normalised": "yes"}, "must be true or false"),
        ({"pairs_per_step": 0}, "dpo.pairs_per_step is 0"),
        ({"max_eval_pairs": 1.5}, "dpo.max_eval_pairs is 1.5"),
        ({"reference": "base"}, "dpo.reference is 'base'; it must be precomputed or adapter_off"),
        ({"reference_cache": 3}, "dpo.reference_cache is 3"),
    ],
)
def test_settings_refuse_what_has_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DpoSettings(**settings)
