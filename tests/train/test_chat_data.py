"""What is learned is what is served: mistral-common, the server's prompts, its grammar agree."""

import contextlib
import json
import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtral.engine import SamplingParams
from mixtral.errors import ConfigError, InvalidRequest
from mixtral.request import RequestBuilder
from mixtral.tokenizer import Tokenizer, load_tokenizer
from mixtral.train import chat_data
from mixtral.train.chat_data import (
    Example,
    encode_conversation,
    encode_document,
    encode_preference,
    encode_records,
    picture,
)
from mixtral.train.record_files import RecordReader
from mixtral.train.records import (
    Document,
    parse_conversation,
    parse_document,
    parse_preference,
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **more: object) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def called(*ids: str) -> dict[str, Any]:
    arguments = json.dumps({"city": "Zürich", "days": 2})
    function = {"name": "get_weather", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": i, "type": "function", "function": function} for i in ids],
    }


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": '{"celsius": 21}'}


SYSTEM = {"role": "system", "content": "Be kind."}
SINGLE = {"messages": [user("Hi"), said("Hello! ")]}
MULTI = {"messages": [user("Hi"), said("Hello"), user("2 + 2?"), said("It is 4.\n")]}
WITH_SYSTEM = {"messages": [SYSTEM, *MULTI["messages"]]}
JOINED = {"messages": [user("Hi"), user("there"), said("Hello"), said("you"), user("?"), said("!")]}
OPENED = {"messages": [SYSTEM, said("Welcome"), user("Hi"), said("Hello")]}
CALLS = {
    "tools": [WEATHER],
    "messages": [
        user("Weather?"),
        called("abcdefgh1", "abcdefgh2"),
        result("abcdefgh1"),
        result("abcdefgh2"),
        said("21 degrees."),
        user("Thanks, and tomorrow?"),
        called("abcdefgh3"),
    ],
}
TOOLS_UNUSED = {"tools": [WEATHER], "messages": [user("Hi"), said("Hello"), user("?"), said("!")]}
CASES = {
    "single": SINGLE,
    "multi": MULTI,
    "system": WITH_SYSTEM,
    "joined": JOINED,
    "opened": OPENED,
    "calls": CALLS,
    "tools unused": TOOLS_UNUSED,
}


@cache
def tokenizer_of(version: str) -> Tokenizer:
    return load_tokenizer(version)


@pytest.fixture(params=["v1", "v3"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(request.param)


@cache
def builder_of(version: str) -> RequestBuilder:
    return RequestBuilder(tokenizer_of(version), vocab_size=tokenizer_of(version).vocab_size)


@cache
def oracle(version: str) -> Any:
    """mistral-common itself, in the mode that Mistral's fine-tuning uses."""
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    files = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}
    path = MistralTokenizer._data_path() / files[version]
    return MistralTokenizer.from_file(str(path), mode=ValidationMode.finetuning)


def oracle_ids(version: str, record: dict[str, Any]) -> list[int]:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    request = ChatCompletionRequest(**record)
    return list(oracle(version).encode_chat_completion(request).tokens)


def examples_of(record: dict[str, Any], tokenizer: Tokenizer) -> list[Example]:
    return encode_conversation(parse_conversation(record), tokenizer)


def answers_of(example: Example) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each learned run of tokens; a </s> ends each."""
    marks = np.flatnonzero(np.diff([0, *example.loss_mask, 0]))
    yield from zip(marks[::2].tolist(), marks[1::2].tolist(), strict=True)


def prefixes_to_answers(record: dict[str, Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield what comes before each answer of a record, and the conversation up to its end."""
    messages = record["messages"]
    for end in range(1, len(messages) + 1):
        is_answer = messages[end - 1]["role"] == "assistant"
        if is_answer and (end == len(messages) or messages[end]["role"] != "assistant"):
            begin = end - 1
            while messages[begin - 1]["role"] == "assistant":
                begin -= 1
            yield messages[:begin], messages[:end]


@pytest.mark.parametrize("name", ["single", "multi", "system", "joined", "opened"])
def test_a_whole_conversation_has_the_ids_of_mistral_common(
    tokenizer: Tokenizer, name: str
) -> None:
    record = CASES[name]
    assert examples_of(record, tokenizer)[-1].token_ids == oracle_ids(tokenizer.version, record)


def test_v3_tool_conversations_have_the_ids_of_mistral_common_at_each_answer() -> None:
    for name in ("calls", "tools unused"):
        wholes = oracle_ids_at_each_answer(CASES[name])
        examples = examples_of(CASES[name], tokenizer_of("v3"))
        assert [example.token_ids for example in examples] == wholes


def oracle_ids_at_each_answer(record: dict[str, Any]) -> list[list[int]]:
    wholes = []
    for _, whole in prefixes_to_answers(record):
        *history, last = json.loads(json.dumps(whole))
        for call in last.get("tool_calls", []):
            del call["id"]  # A call to learn has none, in mistral-common's training format, too.
        wholes.append(oracle_ids("v3", {"messages": [*history, last], "tools": [WEATHER]}))
    return wholes


@pytest.mark.parametrize("name", CASES)
def test_each_answer_is_learned_once_behind_the_prompt_of_the_server(
    tokenizer: Tokenizer, name: str
) -> None:
    record = CASES[name]
    examples = examples_of(record, tokenizer)
    learned = [e.token_ids[:begin] for e in examples for begin, _ in answers_of(e)]
    served = [
        builder_of(tokenizer.version)
        .chat(prompt, SamplingParams(), tools=record.get("tools"))
        .prompt_token_ids
        for prompt, _ in prefixes_to_answers(record)
    ]
    assert learned == served
    for example in examples:
        assert all(example.token_ids[end - 1] == tokenizer.eos_id for _, end in answers_of(example))
        assert len(example.token_ids) == len(example.loss_mask)


@pytest.mark.parametrize("name", CASES)
def test_learned_tokens_are_allowed_by_the_servers_grammar(tokenizer: Tokenizer, name: str) -> None:
    record = CASES[name]
    prompts = [prompt for prompt, _ in prefixes_to_answers(record)]
    examples = examples_of(record, tokenizer)
    answers = [example.token_ids[a:b] for example in examples for a, b in answers_of(example)]
    for prompt, answer in zip(prompts, answers, strict=True):
        request = builder_of(tokenizer.version).chat(
            prompt, SamplingParams(), tools=record.get("tools")
        )
        if request.grammar is None:
            continue
        state = request.grammar.start()
        for place, token_id in enumerate(answer):
            state.prepare(1000 - place)
            mask = state.mask()
            if mask is not None:
                allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
                assert allowed[token_id], tokenizer.decode(answer[: place + 1])
            if token_id != tokenizer.eos_id:
                state.accept(token_id)


def test_conversations_that_only_grow_are_one_example_and_others_one_per_form() -> None:
    counts = {
        version: {
            name: len(examples_of(case, tokenizer_of(version))) for name, case in CASES.items()
        }
        for version in ("v1", "v3")
    }
    assert set(counts["v1"].values()) == {1}
    assert counts["v3"] == {
        "single": 1,
        "multi": 1,
        "system": 2,
        "joined": 1,
        "opened": 2,
        "calls": 3,
        "tools unused": 2,
    }


def test_the_fast_way_gives_what_the_plain_way_gives(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    texts = ["a", " b", "[INST] </s>", "é\n\n", "[TOOL_CALLS] []", "x " * 30]
    records = []
    for _ in range(30):
        messages = [SYSTEM] if rng.random() < 0.3 else []
        for _ in range(rng.randint(1, 4)):
            messages += [user(rng.choice(texts)) for _ in range(rng.choice([1, 1, 2]))]
            weight = rng.choice([0, 1, 1])
            messages += [said(rng.choice(texts), weight=weight)] * rng.choice([1, 1, 2])
        messages[-1] = messages[-1] | {"weight": 1}
        if messages[-2]["role"] == "assistant":
            messages[-2] = messages[-1]
        records.append({"messages": messages})
    fast = [examples_of(record, tokenizer) for record in records]
    monkeypatch.setattr(chat_data, "_only_grows", lambda *_: False)
    assert [examples_of(record, tokenizer) for record in records] == fast


def test_answers_with_weight_0_are_context_only(tokenizer: Tokenizer) -> None:
    messages = [user("Hi"), said("Hello", weight=0), user("?"), said("!")]
    (example,) = examples_of({"messages": messages}, tokenizer)
    assert example.token_ids == oracle_ids(
        tokenizer.version,
        {"messages": [{k: v for k, v in m.items() if k != "weight"} for m in messages]},
    )
    assert [tokenizer.decode(example.token_ids[a:b]) for a, b in answers_of(example)] == ["!"]
    messages = [user("Hi"), said("Hello"), user("?"), said("!", weight=0)]
    (example,) = examples_of({"messages": messages}, tokenizer)
    assert example.loss_mask[-1], "what follows the last answer to learn is left out"


def test_v3_refuses_to_learn_text_beside_calls_and_v1_learns_both() -> None:
    messages = [user("Weather?"), called("abcdefgh1") | {"content": "Let me see."}]
    record = {"messages": messages, "tools": [WEATHER]}
    with pytest.raises(InvalidRequest, match="both text and tool calls"):
        examples_of(record, tokenizer_of("v3"))
    (example,) = examples_of(record, tokenizer_of("v1"))
    assert picture(example, tokenizer_of("v1"))[-1][0].startswith(" Let me see.\n\n[TOOL_CALLS] [{")
    late = [messages[0], messages[1] | {"weight": 0}, result("abcdefgh1"), said("21.")]
    assert len(examples_of({"messages": late, "tools": [WEATHER]}, tokenizer_of("v3"))) == 1


def test_a_preference_is_two_answers_behind_one_prompt(tokenizer: Tokenizer) -> None:
    value = {"messages": WITH_SYSTEM["messages"][:-1], "chosen": "4", "rejected": "It is 5"}
    pair = encode_preference(parse_preference(value), tokenizer)
    prompt = tokenizer.encode_chat(value["messages"])
    for example, text in zip(pair, ("4", "It is 5"), strict=True):
        ((begin, end),) = answers_of(example)
        assert example.token_ids[:begin] == prompt
        assert end == len(example.token_ids)
        assert tokenizer.decode(example.token_ids[begin:end]) == text


def test_answers_that_the_template_writes_alike_are_no_preference() -> None:
    pair = parse_preference({"prompt": "a", "chosen": "4", "rejected": "4 "})
    with pytest.raises(InvalidRequest, match="the same tokens"):
        encode_preference(pair, tokenizer_of("v3"))


@pytest.mark.parametrize("max_seq_len", [1, 5, 29, 30, 31, 100])
def test_each_token_of_a_document_is_learned_once(tokenizer: Tokenizer, max_seq_len: int) -> None:
    text = "Call me Ishmael. Some years ago - never mind how long precisely."
    whole = [*tokenizer.encode(text), tokenizer.eos_id]
    pieces = encode_document(Document(text=text), tokenizer, max_seq_len)
    assert max(piece.num_inputs for piece in pieces) <= max_seq_len
    learned = [
        token_id
        for piece in pieces
        for token_id, is_learned in zip(piece.token_ids, piece.loss_mask, strict=True)
        if is_learned
    ]
    assert learned == whole[1:]


def test_picture_shows_every_character_and_which_are_learned(tokenizer: Tokenizer) -> None:
    (example,) = examples_of({"messages": [user("Où? 🦊"), said("là 🦊")]}, tokenizer)
    expected = {
        "v1": [("<s> [INST] Où? 🦊 [/INST]", False), (" là 🦊</s>", True)],
        "v3": [("<s>[INST] Où? 🦊[/INST]", False), (" là 🦊</s>", True)],
    }
    assert picture(example, tokenizer) == expected[tokenizer.version]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_too_long_records_are_an_error_or_skipped_and_counted(tmp_path: Path) -> None:
    encode = partial(encode_conversation, tokenizer=tokenizer_of("v3"))
    long = {"messages": [user("Hi"), said("word " * 50)]}
    path = write(tmp_path / "a.jsonl", [SINGLE, long, MULTI])
    reader = RecordReader([path], parse_conversation)
    records = list(encode_records(reader, encode, max_seq_len=40, too_long="skip"))
    assert (len(records), reader.num_skipped) == (2, 1)
    reader = RecordReader([path], parse_conversation)
    with pytest.raises(ConfigError, match=r"a.jsonl:2: the record has \d+ tokens and max_seq_len"):
        list(encode_records(reader, encode, max_seq_len=40))


def test_what_only_the_template_refuses_is_named_by_line(tmp_path: Path) -> None:
    wrong = {"messages": [user("Hi"), said("Hello"), SYSTEM, user("?"), said("!")]}
    path = write(tmp_path / "a.jsonl", [SINGLE, wrong])
    reader = RecordReader([path], parse_conversation)
    encode = partial(encode_conversation, tokenizer=tokenizer_of("v1"))
    with pytest.raises(ConfigError, match=r"1 of 2 records .*a.jsonl:2: .*Unexpected role"):
        list(encode_records(reader, encode, max_seq_len=100))


def test_documents_are_cut_and_never_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "word " * 100}])
    reader = RecordReader([path], parse_document)
    encode = partial(encode_document, tokenizer=tokenizer_of("v3"), max_seq_len=16)
    (record,) = encode_records(reader, encode, max_seq_len=16)
    assert len(record.examples) > 5


def test_no_depth_of_json_ends_in_an_error_without_a_line(tmp_path: Path) -> None:
    messages = json.dumps(SINGLE["messages"])
    path = tmp_path / "a.jsonl"
    for depth in (*range(900, 1000), 100_000):
        deep = "[" * depth + "]" * depth
        tool = json.dumps(WEATHER).replace('{"city"', f'{{"x": {{"const": {deep}}}, "city"')
        path.write_text(f'{{"messages": {messages}, "tools": [{tool}]}}\n', encoding="utf-8")
        for version in ("v1", "v3"):
            reader = RecordReader([path], parse_conversation)
            encode = partial(encode_conversation, tokenizer=tokenizer_of(version))
            with contextlib.suppress(ConfigError):  # Where Python gives up is its own affair.
                list(encode_records(reader, encode, max_seq_len=10**6))
    with pytest.raises(ConfigError, match=r"a.jsonl:1: it is nested too deeply"):
        reader.check()
