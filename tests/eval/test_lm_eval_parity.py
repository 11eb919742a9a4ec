"""The same model gives the same numbers here and in lm-evaluation-harness's own backend."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")
pytest.importorskip("transformers", reason="the other backend needs transformers")

import transformers
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from mixtral.eval.benchmarks import find_benchmarks
from mixtral.eval.harness_tasks import make_tasks
from mixtral.eval.lm_eval_model import EngineLM
from mixtral.llm import LLM
from mixtral.tokenizer.files import built_in_file
from tests.eval.tiny_llm import load, write_data, write_model

pytestmark = [
    pytest.mark.slow,  # transformers and its tokenizer take half a minute to load
    pytest.mark.filterwarnings("ignore"),  # the other backend's
]

Models = tuple[LLM, Any]
CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return one random model in our engine and in theirs, both in float32."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_model(folder, max_position_embeddings=1024, num_hidden_layers=2, hidden_size=32)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    shutil.copy(built_in_file("v3"), folder / "tokenizer.model")
    added = {str(i): {"content": t, "special": True} for i, t in enumerate(CONTROL_TOKENS)}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_prefix_space": True,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "added_tokens_decoder": added,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
    model = transformers.MixtralForCausalLM.from_pretrained(folder, dtype="float32")
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=1024)
    return load(folder), theirs


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
    ours, theirs = models
    benchmark = dataclasses.replace(find_benchmarks([name])[0], **changes)
    found = []
    for lm in (EngineLM(ours), theirs):
        tasks = make_tasks(benchmark, preset="mixtral-paper", data=data)
        found.append(evaluate(lm, {"tasks": tasks}, bootstrap_iters=0))
    mine, expected = found
    assert mine["results"] == expected["results"]
    for task, samples in expected["samples"].items():
        for own, other in zip(mine["samples"][task], samples, strict=True):
            assert own["prompt_hash"] == other["prompt_hash"]
            if name == "nq_open":
                assert own["filtered_resps"] == other["filtered_resps"]
                continue
            scores = zip(own["filtered_resps"], other["filtered_resps"], strict=True)
            for (logprob, is_greedy), (other_logprob, other_is_greedy) in scores:
                assert logprob == pytest.approx(other_logprob, rel=1e-5)
                assert is_greedy == other_is_greedy


@pytest.mark.parametrize("repeats", [1, 30])
def test_rolling_perplexity_is_the_same_within_one_window_and_over_several(
    models: Models, repeats: int
) -> None:
    ours, theirs = models
    text = "The river runs to the sea, and nobody asks it why it does so, or since when. " * repeats
    request = Instance(
        request_type="loglikelihood_rolling",
        doc={},
        arguments=(text,),
        idx=0,
        metadata=("text", 0, 1),
    )
    (mine,) = EngineLM(ours).loglikelihood_rolling([request])
    (expected,) = theirs.loglikelihood_rolling([request])
    assert mine == pytest.approx(expected, rel=1e-5)
