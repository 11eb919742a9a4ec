"""nano, exported to the Hugging Face layout, is asked a hundred real questions of each kind.

lm-evaluation-harness's own backend must get the same numbers, to the last digit that it prints,
from the folder that ``mixtral convert`` writes. The questions are the shorter ones of their kind,
so that all of it takes minutes. The rows are too large for the repository: MIXTRAL_EVAL_DATA names
their folder (docs/evaluation.md has its layout); where it is not set, it is shared/data/eval beside
the repository.
"""

import dataclasses
import gzip
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")
pytest.importorskip("transformers", reason="the other backend needs transformers")

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from typer.testing import CliRunner

from mixtral.cli.main import app
from mixtral.eval.benchmarks import find_benchmarks
from mixtral.eval.harness_tasks import make_tasks
from mixtral.llm import LLM
from tests.eval.hf_backend import ask_both, assert_same, load_backend

pytestmark = [
    pytest.mark.slow,  # minutes: the other backend computes every choice and every logit
    pytest.mark.filterwarnings("ignore"),  # the other backend's
]

DATA = Path(
    os.environ.get("MIXTRAL_EVAL_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
)
NUM_QUESTIONS = 100


@pytest.fixture(scope="module")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"there are no rows in {DATA}; name their folder with MIXTRAL_EVAL_DATA")
    return DATA


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LLM, Any]:
    """Return nano as the command line exports it, in our engine and in theirs."""
    folder = tmp_path_factory.mktemp("model") / "nano-hf"
    command = ["convert", "nano", str(folder), "--format", "hf", "--dtype", "float32"]
    assert CliRunner().invoke(app, command).exit_code == 0
    return LLM(folder, device="cpu"), load_backend(folder, batch_size=16)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hellaswag", {}),
        ("mmlu", {"tasks": "mmlu/default/mmlu_world_religions.yaml"}),  # the shortest shots
        ("nq_open", {"generation": {"max_gen_toks": 16}}),
    ],
)
def test_benchmark_has_the_same_numbers_and_answers(
    models: tuple[LLM, Any], data: Path, name: str, changes: dict[str, Any]
) -> None:
    benchmark = dataclasses.replace(find_benchmarks([name])[0], **changes)

    def tasks() -> dict[str, ConfigurableTask]:
        return make_tasks(benchmark, preset="mixtral-paper", data=data)

    mine, expected = ask_both(*models, tasks, limit=NUM_QUESTIONS)
    assert_same(mine, expected)
    ((_, samples),) = mine["samples"].items()
    assert len(samples) == NUM_QUESTIONS


def test_rolling_perplexity_is_the_same(models: tuple[LLM, Any], data: Path) -> None:
    lines: list[str] = []
    for name in ("test", "valid"):
        with gzip.open(data / f"wikitext2/{name}.txt.gz", "rt", encoding="utf-8") as file:
            lines += [line.strip() for line in file]
    # The other backend takes <unk>, which the file has for rare words, for a control token.
    paragraphs = [text for text in lines if 100 < len(text) < 1500 and "<" not in text]
    paragraphs = paragraphs[:NUM_QUESTIONS]
    config = {
        "task": "paragraphs",
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
        "custom_dataset": lambda **_: {
            "test": Dataset.from_list([{"text": p} for p in paragraphs])
        },
    }
    mine, expected = ask_both(*models, lambda: {"paragraphs": ConfigurableTask(config=config)})
    assert_same(mine, expected)
    assert len(mine["samples"]["paragraphs"]) == NUM_QUESTIONS
