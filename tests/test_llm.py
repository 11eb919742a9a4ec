"""LLM: text in, text out, and the promises of its docstrings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mixtral
from mixtral import LLM, SamplingParams
from mixtral.checkpoint import quantize_checkpoint
from mixtral.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    TokenizerError,
    UnsupportedError,
)
from mixtral.kernels.cpu import load_library
from mixtral.model_source import NANO_FOLDER
from mixtral.quantization import find_recipe
from tests.checkpoints_for_tests import write_random
from tests.models_for_tests import tiny_config

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
MESSAGES = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("random:nano", layers=2, dtype="float32", device="cpu")


def test_mixed_batch_gives_same_texts_as_each_prompt_alone(llm: LLM) -> None:
    prompts = ["Hello", "The quick brown fox jumps over the lazy dog", "1 2 3", "a"]
    together = [c.text for c in llm.generate(prompts, GREEDY)]
    assert together == [llm.generate(prompt, GREEDY)[0].text for prompt in prompts]


def test_text_and_its_token_ids_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Hello there")
    assert llm.generate([ids], GREEDY) == llm.generate("Hello there", GREEDY)


def test_streamed_pieces_join_to_the_whole_text(llm: LLM) -> None:
    chunks = list(llm.stream("Hello", GREEDY))
    whole = llm.generate("Hello", GREEDY)[0]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [i for chunk in chunks for i in chunk.token_ids] == list(whole.token_ids)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 10


def test_two_streams_read_in_turns_lose_nothing(llm: LLM) -> None:
    expected = [llm.generate(prompt, GREEDY)[0].text for prompt in ("Hello", "Goodbye")]
    first, second = llm.stream("Hello", GREEDY), llm.stream("Goodbye", GREEDY)
    texts = [next(first).text, next(second).text]
    llm.generate("In between", GREEDY)
    texts[1] += "".join(chunk.text for chunk in second)
    texts[0] += "".join(chunk.text for chunk in first)
    assert texts == expected


def test_stream_that_is_closed_early_frees_its_blocks(llm: LLM) -> None:
    free = llm._engine._blocks.num_free_blocks
    stream = llm.stream("Hello", GREEDY)
    next(stream)
    assert llm._engine._blocks.num_free_blocks < free
    stream.close()
    assert llm._engine._blocks.num_free_blocks == free
    assert not llm._engine.has_unfinished


def test_chat_is_generation_from_the_official_template(llm: LLM) -> None:
    answer = llm.chat(MESSAGES, GREEDY)
    assert answer.token_ids == llm.generate([llm.encode_chat(MESSAGES)], GREEDY)[0].token_ids
    assert answer.text == "".join(chunk.text for chunk in llm.stream_chat(MESSAGES, GREEDY))
    assert answer.tool_calls == []


def test_safe_prompt_puts_the_official_text_first(llm: LLM) -> None:
    safe = llm.tokenizer.decode(llm.encode_chat(MESSAGES, safe_prompt=True))
    assert "Always assist with care, respect, and truth." in safe
    assert "Always assist" not in llm.tokenizer.decode(llm.encode_chat(MESSAGES))


def test_stop_string_across_token_borders_ends_the_text_before_it(llm: LLM) -> None:
    text = llm.generate("Hello", GREEDY)[0].text
    stop = text[4:9]
    answer = llm.generate("Hello", GREEDY.replace(stop=[stop]))[0]
    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == "stop"
    assert not llm._engine.has_unfinished


def test_min_tokens_lets_an_early_stop_string_pass(llm: LLM) -> None:
    text = llm.generate("Hello", GREEDY)[0].text
    params = GREEDY.replace(stop=[text[:3]])
    assert llm.generate("Hello", params)[0].text == ""
    late = llm.generate("Hello", params.replace(min_tokens=9))[0]
    assert len(late.token_ids) >= 9
    assert late.text == text[: len(late.text)]
    assert len(late.text) > 3


def test_n_answers_differ_by_seed_and_are_reproducible(llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, seed=5, n=3, max_tokens=8, ignore_eos=True)
    answers = llm.generate("Hello", params)
    assert [a.index for a in answers] == [0, 1, 2]
    assert len({tuple(a.token_ids) for a in answers}) == 3
    assert answers == llm.generate("Hello", params)
    third = llm.generate("Hello", params.replace(seed=7, n=1))[0]
    assert third.token_ids == answers[2].token_ids


def test_logprobs_name_each_token_and_its_alternatives(llm: LLM) -> None:
    answer = llm.generate("Hello", GREEDY.replace(logprobs=2))[0]
    assert answer.logprobs is not None
    assert [choice.token_id for choice in answer.logprobs] == list(answer.token_ids)
    for choice in answer.logprobs:
        assert len(choice.top_logprobs) == 2
        assert choice.logprob == max(choice.top_logprobs.values())
        assert choice.token == llm.tokenizer.decode_token(choice.token_id)


def test_route_reports_what_the_logits_pass_through(llm: LLM) -> None:
    trace = llm.route([1, 5, 9])
    assert trace.expert_ids.shape == (3, 2, 2)
    assert trace.router_logits.shape == (3, 2, 8)
    torch.testing.assert_close(trace.routing_weights.sum(-1), torch.ones(3, 2))
    chosen = trace.router_logits.gather(-1, trace.expert_ids)
    assert torch.equal(chosen[..., 0], trace.router_logits.max(-1).values)


def test_prompt_that_does_not_fit_is_refused_with_both_numbers() -> None:
    llm = LLM("random:nano", layers=1, device="cpu", max_model_len=64)
    with pytest.raises(ContextLengthExceeded, match=r"100 tokens.* 64"):
        llm.generate([[5] * 100], GREEDY)
    with pytest.raises(ContextLengthExceeded, match=r"60 tokens and max_tokens is 10.* 64"):
        llm.generate([[5] * 60], GREEDY)
    with pytest.raises(ContextLengthExceeded, match=r"65 tokens.* 64"):
        llm.logits([5] * 65)
    answer = llm.generate([[5] * 60], SamplingParams(temperature=0, ignore_eos=True))[0]
    assert len(answer.token_ids) == 4
    assert answer.finish_reason == "length"


def test_one_refused_prompt_leaves_nothing_of_its_batch_behind(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.generate([[1, 2], [99999]], GREEDY)
    assert not llm._engine.has_unfinished


@pytest.mark.parametrize("prompt", [[[]], [b"bytes"], [None], [["text"]]])
def test_wrong_prompts_are_refused(llm: LLM, prompt: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        llm.generate(prompt, GREEDY)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantization", ["int8", "int4", "int3"])
def test_quantised_on_the_way_in_equals_the_packed_folder(
    quantization: str, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    quantize_checkpoint(NANO_FOLDER, folder, find_recipe(quantization))
    answers = []
    for llm in (LLM("nano", quantization=quantization, device="cpu"), LLM(folder, device="cpu")):
        answers.append(llm.logits([1, 5, 9, 700, 20]))
    assert torch.equal(*answers)


def test_exact_activations_come_closer_to_the_unpacked_model() -> None:
    plain = LLM("nano", dtype="float32", device="cpu")
    exact = LLM("nano", quantization="int8", device="cpu", exact_activations=True)
    fast = LLM("nano", quantization="int8", device="cpu")

    def mean_error(packed: LLM) -> float:
        # Over several texts: in one alone the rounding of activations may cancel that of weights.
        texts = [[1, *range(1100 + 37 * i, 29000, 457)] for i in range(6)]
        errors = [
            (packed.logits(t) - plain.logits(t)).norm() / plain.logits(t).norm() for t in texts
        ]
        return float(sum(errors)) / len(errors)

    assert mean_error(exact) < mean_error(fast) < 0.2


@pytest.mark.skipif(load_library() is None, reason="the C++ library is not built here")
def test_packed_model_refuses_another_format(tmp_path: Path) -> None:
    quantize_checkpoint(NANO_FOLDER, tmp_path / "packed", find_recipe("int4"))
    for wrong in ({"quantization": "int8"}, {"dtype": "float32"}):
        with pytest.raises(ConfigError, match="packed as int4"):
            LLM(tmp_path / "packed", **wrong)  # type: ignore[arg-type]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"enum": [1, 3, 7]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("seed", range(3))
def test_a_forced_call_has_a_whole_valid_argument_object(llm: LLM, seed: int) -> None:
    params = SamplingParams(temperature=1.5, seed=seed, max_tokens=90)
    answer = llm.chat(MESSAGES, params, tools=[WEATHER], tool_choice="any")
    assert answer.tool_calls
    for call in answer.tool_calls:
        assert call.function.name == "get_weather"
        arguments = json.loads(call.function.arguments)
        assert sorted(arguments) == ["city", "days"]
        assert arguments["days"] in (1, 3, 7)
    assert answer.text == ""


@pytest.mark.parametrize("max_tokens", [12, 40])
def test_json_is_valid_even_when_max_tokens_ends_it(llm: LLM, max_tokens: int) -> None:
    params = SamplingParams(temperature=1.5, seed=1, max_tokens=max_tokens)
    answer = llm.chat(MESSAGES, params, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.text), dict)
    assert answer.usage.completion_tokens <= max_tokens


def test_streamed_calls_and_text_are_those_of_the_whole_answer(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=90)
    whole = llm.chat(MESSAGES, params, tools=[WEATHER], tool_choice="any")
    chunks = list(llm.stream_chat(MESSAGES, params, tools=[WEATHER], tool_choice="any"))
    calls = [call.function for chunk in chunks for call in chunk.tool_calls]
    assert calls == [call.function for call in whole.tool_calls]
    assert chunks[-1].finish_reason == whole.finish_reason


def test_a_stop_string_inside_a_format_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="stop cannot be used with response_format"):
        llm.chat(MESSAGES, SamplingParams(stop="}"), response_format={"type": "json_object"})


def test_a_tool_and_a_format_for_one_answer_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        llm.chat(MESSAGES, tools=[WEATHER], response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "no/such/folder"}, ConfigError, "model is 'no/such/folder'"),
        ({"model": "random:9x9b"}, ConfigError, "preset is '9x9b'"),
        ({"model": "random:nano", "layers": 0}, ConfigError, "num_hidden_layers is 0"),
        ({"model": "random:nano", "dtype": "int9"}, ConfigError, "dtype is 'int9'"),
        ({"model": "nano", "kv_cache_dtype": "int4"}, ConfigError, "kv_cache_dtype is 'int4'"),
        (
            {"model": "nano", "dtype": "float32", "kv_cache_dtype": "int8"},
            UnsupportedError,
            "kv_cache_dtype is 'int8'",
        ),
        ({"model": "nano", "quantization": "int5"}, ConfigError, "quantization is 'int5'"),
        (
            {"model": "nano", "quantization": "int4", "dtype": "float32"},
            ConfigError,
            "give one of them",
        ),
        ({"model": "random:8x22b", "device": "cpu"}, UnsupportedError, "memory are free; use"),
        (
            {"model": "nano", "exact_activations": True, "device": "cpu"},
            ConfigError,
            "exact_activations is true, and 'nano' runs in torch.bfloat16",
        ),
        ({"model": "nano", "seed": 5, "device": "cpu"}, ConfigError, "random weights is 5"),
        ({"model": "random:nano", "device": "tpu"}, ConfigError, "device is 'tpu'"),
        ({"model": "random:nano", "max_model_len": 10**9}, ConfigError, "max_model_len is 1000"),
        ({"model": "random:nano", "kv_cache_gb": 0}, ConfigError, "kv_cache_gb is 0"),
        ({"model": "random:nano", "kv_cache_gb": 1e-6}, ConfigError, "KV cache has room for 0"),
        ({"model": "random:nano", "tokenizer": "v9"}, TokenizerError, "v9"),
        ({"model": "random:nano", "tokenizer": 5}, ConfigError, "tokenizer is 5"),
        ({"model": "random:8x22b"}, UnsupportedError, "weights take 281.3 GB"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LLM(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_said_with_the_way_out() -> None:
    with pytest.raises(UnsupportedError, match="no CUDA GPU; use device='cpu'"):
        LLM("random:nano", device="cuda")


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither config\.json nor params\.json"):
        LLM(tmp_path)


def test_model_without_tokenizer_takes_token_ids_and_says_so_for_text(tmp_path: Path) -> None:
    write_random("hf", tmp_path, tiny_config(), seed=0)
    llm = LLM(tmp_path, device="cpu")
    answer = llm.generate([[1, 2, 3]], GREEDY)[0]
    assert len(answer.token_ids) == 10
    assert answer.text == ""
    with pytest.raises(TokenizerError, match="512 words"):
        llm.generate("text", GREEDY)


def test_broken_tokenizer_is_named_when_text_is_asked_for(tmp_path: Path) -> None:
    write_random("hf", tmp_path, tiny_config(), seed=0)
    (tmp_path / "tokenizer.model").write_bytes(b"cut")
    llm = LLM(tmp_path, device="cpu")
    assert llm.logits([1, 2]).shape == (2, 512)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        llm.encode_chat(MESSAGES)


def test_public_names_are_sorted_complete_and_there() -> None:
    names = mixtral.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert getattr(mixtral, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = mixtral.nothing_like_this


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, mixtral; print('torch' in sys.modules, mixtral.ModelConfig.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["False", "ModelConfig"], result.stderr


def test_an_answer_begins_with_the_prefix_that_it_continues(llm: LLM) -> None:
    prefix = "A mixture of"
    messages = [
        {"role": "user", "content": "What is a mixture of experts?"},
        {"role": "assistant", "content": prefix, "prefix": True},
    ]
    answer = llm.chat(messages, SamplingParams(temperature=0.0, max_tokens=3))
    assert answer.text == prefix + llm.tokenizer.decode_continuation(answer.token_ids)
    assert answer.usage.completion_tokens == 3
    params = SamplingParams(temperature=0.0, max_tokens=3)
    assert "".join(c.text for c in llm.stream_chat(messages, params)) == answer.text
