"""lm-evaluation-harness's own Hugging Face backend, on the same files as our engine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from mixtral.eval.lm_eval_model import EngineLM
from mixtral.llm import LLM

Found = Mapping[str, Any]
"""What the harness returns: results by task, and every question with its answer."""


def load_backend(folder: Path, *, batch_size: int = 3) -> HFLM:
    """Load a float32 model in the Hugging Face layout, with its tokenizer, as anyone would."""
    model = transformers.MixtralForCausalLM.from_pretrained(folder, dtype="float32")
    return HFLM(
        pretrained=model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        batch_size=batch_size,
        max_length=model.config.max_position_embeddings,
    )


def ask_both(
    ours: LLM, theirs: HFLM, make_tasks: Callable[[], Mapping[str, Any]], limit: int | None = None
) -> tuple[Found, Found]:
    """Return what the harness makes of our answers and of its own backend's."""
    mine, expected = (
        evaluate(lm, {"tasks": dict(make_tasks())}, limit=limit, bootstrap_iters=0)
        for lm in (EngineLM(ours), theirs)
    )
    return mine, expected


def assert_same(mine: Found, expected: Found) -> None:
    """Hold the numbers against each other as the harness prints them, and every answer."""
    assert _printed(mine) == _printed(expected)
    for task, samples in expected["samples"].items():
        for own, other in zip(mine["samples"][task], samples, strict=True):
            assert own["prompt_hash"] == other["prompt_hash"]
            answers = zip(own["filtered_resps"], other["filtered_resps"], strict=True)
            assert all(_is_same(*pair) for pair in answers), (own, other)


def _printed(found: Found) -> dict[str, dict[str, str]]:
    return {
        task: {name: _shown(value) for name, value in values.items()}
        for task, values in found["results"].items()
    }


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    # A perplexity of thousands has no fourth decimal: both sum up float32 of seven digits.
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.6g}"


def _is_same(own: Any, other: Any) -> bool:
    """Compare texts and choices to the letter, log-probabilities to float32's rounding."""
    if isinstance(other, str | bool):
        return bool(own == other)
    if isinstance(other, float):
        return bool(own == pytest.approx(other, rel=1e-5))
    return all(_is_same(*pair) for pair in zip(own, other, strict=True))
