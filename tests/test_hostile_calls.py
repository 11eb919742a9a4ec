"""What a program may do wrong with ``LLM``, and what it may interrupt."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixtral import LLM, ConfigError, EngineError, InvalidRequest, SamplingParams
from mixtral.checkpoint import write_checkpoint
from tests.models_for_tests import tiny_model

GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(vocab_size=32768, hidden_size=16, num_hidden_layers=1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, device="cpu")


def is_idle(llm: LLM) -> bool:
    return not llm._engine.has_unfinished


@pytest.mark.parametrize(
    "prompt",
    [
        [np.int64(1), np.int32(5)],
        np.array([1, 5]),
        torch.tensor([1, 5]),
        list(torch.tensor([1, 5])),
        (1, 5),
        iter([1, 5]),
    ],
)
def test_ids_of_numpy_and_torch_are_ids(llm: LLM, prompt: Any) -> None:
    expected = llm.generate([[1, 5]], GREEDY)[0].token_ids
    assert llm.generate([prompt], GREEDY)[0].token_ids == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "prompts is a NoneType"),
        (5, "prompts is a int"),
        (b"abc", "prompts is a bytes"),
        ({"a": 1}, "prompts is a dict"),
        ([1, 2], "a prompt is a int"),
        (torch.tensor([1, 2]), "a prompt is a Tensor"),
        ([[True]], "token id True"),
        ([[1.0]], r"token id 1\.0"),
        ([[-1]], "token id -1"),
        ([[]], "no tokens"),
    ],
)
def test_wrong_prompts_are_named(llm: LLM, prompts: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        llm.generate(prompts, GREEDY)
    assert is_idle(llm)


def test_params_of_another_type_are_named(llm: LLM) -> None:
    params: Any = {"max_tokens": 3}
    for call in (llm.generate, llm.stream):
        with pytest.raises(InvalidRequest, match="params is a dict; it must be SamplingParams"):
            call("a", params)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["temperature", "repetition_penalty"])
def test_numbers_without_end_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [lambda stream: stream.close(), lambda stream: None])
def test_stream_that_nobody_reads_frees_its_memory(llm: LLM, end: Callable[[Any], None]) -> None:
    end(llm.stream("a", GREEDY))
    gc.collect()
    assert is_idle(llm)


def test_interrupted_step_can_be_run_again(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llm.generate("a", GREEDY)[0].token_ids
    stream = llm.stream("a", GREEDY)
    token_ids = list(next(stream).token_ids)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm._engine._sampler, "sample", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("b", GREEDY)
    for chunk in stream:
        token_ids += chunk.token_ids
    assert token_ids == list(expected)
    assert is_idle(llm)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_model_of_nan_is_an_error_and_not_an_answer(tmp_path: Path, temperature: float) -> None:
    model = tiny_model(vocab_size=32768, hidden_size=16, num_hidden_layers=1)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    write_checkpoint(tmp_path / "nan", model.config, model.named_parameters(), layout="hf")
    llm = LLM(tmp_path / "nan", device="cpu")
    with pytest.raises(EngineError, match="no finite numbers"):
        llm.generate("a", SamplingParams(max_tokens=2, temperature=temperature))
    assert is_idle(llm)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_cache_gb", float("inf")),
        ("kv_cache_gb", 1e9),
        ("kv_cache_gb", "1"),
        ("max_model_len", "5"),
        ("max_model_len", 1.5),
        ("max_num_seqs", 0),
        ("max_num_seqs", "a"),
    ],
)
def test_wrong_sizes_are_named(folder: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        LLM(folder, device="cpu", **{name: value})


def test_seed_of_random_weights_has_a_range() -> None:
    with pytest.raises(ConfigError, match="seed is"):
        LLM("random:nano", layers=1, device="cpu", seed=2**70)
