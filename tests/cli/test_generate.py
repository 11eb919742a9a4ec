"""``mixtral generate``: one prompt in, the same text out on every way."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mixtral import LLM, SamplingParams
from mixtral.checkpoint.peft import write_adapter
from mixtral.cli import generate as generate_module
from mixtral.cli.options import parse_logit_bias
from mixtral.errors import InvalidRequest
from mixtral.model_source import find_model
from mixtral.outputs import CompletionChunk, Usage
from tests.adapters_for_tests import random_adapter
from tests.cli.conftest import Run


@pytest.fixture
def generate(run: Run, tiny: Path) -> Run:
    def invoke(*args: object, input: str | bytes = "") -> Result:
        fixed = ("--model", tiny, "--device", "cpu", "--seed", 3, "--max-tokens", 6)
        return run("generate", *fixed, *args, input=input)

    return invoke


def test_argument_stdin_stream_and_json_give_the_same_text(generate: Run) -> None:
    plain = generate("Hello").stdout
    assert generate(input="Hello\n").stdout == plain
    assert generate("-", input="Hello").stdout == plain
    assert generate("--stream", "Hello").stdout == plain
    assert json.loads(generate("--json", "Hello").stdout)["text"] + "\n" == plain


def test_json_object_has_the_promised_fields(generate: Run) -> None:
    values = json.loads(generate("--json", "--logprobs", 2, "Hello").stdout)
    assert list(values) == ["text", "token_ids", "finish_reason", "usage", "logprobs"]
    assert len(values["token_ids"]) == len(values["logprobs"]) == 6
    assert values["finish_reason"] == "length"
    usage = values["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    first = values["logprobs"][0]
    assert first["token_id"] == values["token_ids"][0]
    assert len(first["top_logprobs"]) == 2


@pytest.mark.parametrize("more", [(), ("--raw",), ("--stream",)])
def test_adapter_answers_in_place_of_the_model(
    generate: Run, tiny: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config = find_model(str(tiny)).config
    write_adapter(tmp_path / "poems", random_adapter(config, scale=lambda name: 9.0), config)
    adapted = generate("--adapter", tmp_path / "poems", *more, "Hello")
    assert adapted.exit_code == 0
    assert adapted.stdout != generate(*more, "Hello").stdout
    llm = LLM(tiny, device="cpu", adapters={"poems": tmp_path / "poems"})
    params = SamplingParams(seed=3, max_tokens=6)
    if "--raw" in more:
        expected = llm.generate("Hello", params, adapter="poems")[0].text
    else:
        messages = [{"role": "user", "content": "Hello"}]
        expected = llm.chat(messages, params, adapter="poems").text
    assert adapted.stdout == expected + "\n"


def test_raw_continues_the_text_without_a_template(generate: Run) -> None:
    raw = json.loads(generate("--raw", "--json", "Once").stdout)
    chat = json.loads(generate("--json", "Once").stdout)
    assert raw["usage"]["prompt_tokens"] == 2
    assert chat["usage"]["prompt_tokens"] == 4


def test_system_text_and_safe_prompt_reach_the_model(generate: Run) -> None:
    lengths = [
        json.loads(generate("--json", *extra, "Hello").stdout)["usage"]["prompt_tokens"]
        for extra in ([], ["--system", "Be brief."], ["--safe-prompt"])
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_several_answers(generate: Run) -> None:
    values = json.loads(generate("--json", "--n", 2, "Hello").stdout)
    assert len(values["completions"]) == 2
    assert values["text"] == values["completions"][0]["text"]
    text = generate("--n", 2, "Hello").stdout
    first, second = (completion["text"] for completion in values["completions"])
    assert text == f"--- 1 of 2 ---\n{first}\n--- 2 of 2 ---\n{second}\n"


def test_stop_string_ends_the_answer(generate: Run) -> None:
    text = json.loads(generate("--json", "--temperature", 0, "Hello").stdout)["text"]
    stop = text[3:6]
    values = json.loads(
        generate("--json", "--temperature", 0, "--stop", stop, "--stop", "~~", "Hello").stdout
    )
    assert values["text"] == text[: text.index(stop)]
    assert values["finish_reason"] == "stop"


def test_logit_bias_forces_a_token(generate: Run) -> None:
    biased = generate("--json", "--temperature", 0, "--logit-bias", "1000=100", "Hello")
    assert set(json.loads(biased.stdout)["token_ids"]) == {1000}


def test_default_length_gives_way_to_the_context(run: Run, tiny: Path) -> None:
    result = run(
        *("generate", "--model", tiny, "--device", "cpu", "--max-model-len", 10, "--ignore-eos"),
        *("--json", "Hello"),
    )
    assert json.loads(result.stdout)["usage"]["total_tokens"] == 10


def test_random_model_answers(run: Run) -> None:
    result = run("generate", "-m", "random:nano", "--layers", 1, "--max-tokens", 2, "Hello")
    assert result.exit_code == 0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--temperature", 9, "hi"], "temperature is 9.0; it must be a number from 0 to 5"),
        (["--top-k", -1, "hi"], "top_k is -1"),
        (["--min-tokens", 7, "hi"], "min_tokens is 7"),
        (["--logit-bias", "x", "hi"], "logit_bias is 'x'"),
        (["--max-tokens", 300, "hi"], "together they must be at most 256"),
        (["--dtype", "int3", "hi"], "dtype is 'int3'"),
        (["--layers", 2, "hi"], "layers is 2"),
        (["--raw", "--system", "x", "hi"], "leave out --system"),
        (["--stream", "--n", 2, "hi"], "n is 2"),
        (["--stream", "--json", "hi"], "exclude each other"),
        (["--logprobs", 1, "hi"], "logprobs is 1"),
        ([], "the prompt is empty"),
    ],
)
def test_wrong_input_names_the_field(generate: Run, arguments: list[object], part: str) -> None:
    result = generate(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert part in result.stderr.splitlines()[-1]


def test_stdin_that_is_not_utf8_is_refused(generate: Run) -> None:
    result = generate(input=b"ab\xff")
    assert result.exit_code == 2
    assert "byte 0xff at position 2" in result.stderr


def test_terminal_without_a_prompt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(InvalidRequest, match="there is no prompt"):
        generate_module._read_prompt(None, raw=False)


def test_interrupt_keeps_what_was_printed(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*args: Any, **settings: Any) -> Iterator[CompletionChunk]:
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        yield CompletionChunk(text="Half", token_ids=[5], finish_reason=None, usage=usage)
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "stream_chat", stream)
    result = generate("--stream", "Hello")
    assert result.exit_code == 130
    assert result.stdout == "Half\n"


def test_answer_is_that_of_chat_without_the_space_before_its_first_word(
    generate: Run, tiny: Path
) -> None:
    llm = LLM(tiny, device="cpu")
    params = SamplingParams(temperature=0.0, max_tokens=6)
    expected = llm.chat([{"role": "user", "content": "Hello"}], params).text
    result = generate("--temperature", "0", "--max-tokens", "6", "--json", "Hello")
    assert json.loads(result.stdout)["text"] == expected
    several = generate("--temperature", "1", "--seed", "4", "--n", "2", "--json", "Hello")
    texts = [answer["text"] for answer in json.loads(several.stdout)["completions"]]
    second = generate("--temperature", "1", "--seed", "5", "--json", "Hello")
    assert json.loads(second.stdout)["text"] == texts[1]


@pytest.mark.parametrize("entries", [["2"], ["a=1"], ["2=x"], ["2=1", "2=3"]])
def test_wrong_logit_bias_is_refused(entries: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        parse_logit_bias(entries)
