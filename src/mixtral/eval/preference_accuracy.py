"""Preference accuracy: how often a model finds the better of two answers likelier.

Likelier means a larger sum of log-probabilities over the answer's tokens and its </s>, the quantity
that DPO compares (arXiv:2305.18290, section 4), here without a reference model. So a long answer
has a handicap against a short one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtral.eval.answers_check import wilson_interval
from mixtral.eval.cases import Pair
from mixtral.eval.token_scores import TokenScorer
from mixtral.llm import LLM
from mixtral.tools.markers import CALLS_TOKEN_ID


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceAccuracy:
    """What was measured on some pairs."""

    right: int
    """Pairs whose chosen answer is likelier."""
    pairs: int
    """Pairs that fit into the context."""
    mean_margin: float
    """Mean of log p(chosen) - log p(rejected), in nats."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        share = self.right / self.pairs if self.pairs else None
        interval = list(wilson_interval(self.right, self.pairs)) if self.pairs else None
        return {
            "right": self.right,
            "pairs": self.pairs,
            "share": share,
            "interval_95": interval,
            "mean_margin": self.mean_margin,
        }


def measure_preferences(llm: LLM, pairs: Sequence[Pair]) -> PreferenceAccuracy:
    """Compare both answers of every pair that fits into the context of the model.

    Raises:
        TokenizerError: The model has no tokenizer.
    """
    score = TokenScorer.of(llm)
    margins = []
    for pair in pairs:
        prompt = llm.encode_chat(pair.messages, pair.tools or None)
        answers = [_answer_ids(llm, message) for message in (pair.chosen, pair.rejected)]
        if len(prompt) + max(map(len, answers)) > llm.max_model_len:
            continue
        chosen, rejected = (
            float(score([*prompt, *answer], len(prompt)).sum()) for answer in answers
        )
        margins.append(chosen - rejected)
    return PreferenceAccuracy(
        right=sum(margin > 0 for margin in margins),
        pairs=len(margins),
        mean_margin=sum(margins) / len(margins) if margins else 0.0,
    )


def _answer_ids(llm: LLM, message: Mapping[str, Any]) -> list[int]:
    """Return the tokens of an answer as the v3 template writes it, </s> included."""
    tokenizer = llm.tokenizer
    if not message.get("tool_calls"):
        return [*tokenizer.encode(str(message["content"]), bos=False), tokenizer.eos_id]
    calls = [
        {
            "name": call["function"]["name"],
            "arguments": json.loads(call["function"]["arguments"]),
        }
        for call in message["tool_calls"]
    ]
    text = json.dumps(calls, ensure_ascii=False)
    return [CALLS_TOKEN_ID, *tokenizer.encode(text, bos=False), tokenizer.eos_id]
