"""The same model gives the same numbers here and in lm-evaluation-harness's own backend."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")
pytest.importorskip("transformers", reason="the other backend needs transformers")

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from mixtral.eval.benchmarks import find_benchmarks
from mixtral.eval.harness_tasks import make_tasks
from mixtral.llm import LLM
from mixtral.tokenizer.files import built_in_file
from mixtral.tokenizer.hugging_face import write_hugging_face_tokenizer
from tests.eval.hf_backend import ask_both, assert_same, load_backend
from tests.eval.tiny_llm import load, write_data, write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the other backend's

Models = tuple[LLM, Any]
TEXT = "The river runs to the sea, and nobody asks it why it does so, or since when. "


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return one random model in our engine and in theirs, both in float32."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_model(folder, max_position_embeddings=1024, num_hidden_layers=2, hidden_size=32)
    shutil.copy(built_in_file("v3"), folder / "tokenizer.model.v3")
    write_hugging_face_tokenizer(folder)
    return load(folder), load_backend(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), num_rows=12)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hellaswag", {}),
        ("arc_easy", {}),
        ("mmlu", {"tasks": "mmlu/default/mmlu_abstract_algebra.yaml"}),
        ("nq_open", {"generation": {"max_gen_toks": 24}}),
    ],
)
def test_benchmark_has_the_same_numbers_and_answers(
    models: Models, data: Path, name: str, changes: dict[str, Any]
) -> None:
    benchmark = dataclasses.replace(find_benchmarks([name])[0], **changes)

    def tasks() -> dict[str, ConfigurableTask]:
        return make_tasks(benchmark, preset="mixtral-paper", data=data)

    mine, expected = ask_both(*models, tasks)
    assert_same(mine, expected)
    assert len(mine["samples"][next(iter(mine["samples"]))]) >= 12


def test_rolling_perplexity_is_the_same_within_one_window_and_over_several(models: Models) -> None:
    texts = [TEXT, "", TEXT * 30, TEXT * 2]
    rows = [{"text": text} for text in texts]
    config = {
        "task": "texts",
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
    }
    mine, expected = ask_both(*models, lambda: {"texts": ConfigurableTask(config=config)})
    assert_same(mine, expected)
    assert mine["results"]["texts"]["bits_per_byte,none"] > 0
