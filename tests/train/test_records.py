"""Records: every spelling becomes the same thing, and every bad line is named with its reason."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError, InvalidRequest
from mixtral.train import record_files
from mixtral.train.record_files import RecordReader
from mixtral.train.records import (
    Conversation,
    parse_conversation,
    parse_document,
    parse_preference,
)

USER = {"role": "user", "content": "2 + 2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def call(name: str = "add", arguments: object = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": function}]}


def read(path: Path) -> list[Conversation]:
    reader = RecordReader([path], parse_conversation)
    records = [line.record for line in reader]
    reader.check()
    return records


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_weight_0_marks_an_answer_as_context() -> None:
    messages = [USER, FOUR | {"weight": 0}, USER, FIVE | {"weight": 1}, USER, FOUR]
    record = parse_conversation({"messages": messages, "id": 7, "source": "here"})
    assert record.is_learned == [False, False, False, True, False, True]
    assert all("weight" not in message for message in record.messages)


def test_the_last_calls_need_no_results_and_earlier_ones_do() -> None:
    record = parse_conversation({"messages": [USER, call()], "tools": [TOOL]})
    assert record.is_learned == [False, True]
    with pytest.raises(InvalidRequest, match="tool calls have no result"):
        parse_conversation({"messages": [USER, call(), USER, FOUR], "tools": [TOOL]})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a"}, "has no 'messages'; its keys are: text"),
        ({"messages": [USER, FOUR], "system": "be kind"}, "unknown key 'system'"),
        ({"messages": []}, "a list of at least one message"),
        ({"messages": "hello"}, "a list of at least one message"),
        ({"messages": ["hello"]}, r"messages\[0\] has type str; it must be an object"),
        ({"messages": [{"role": "human", "content": "a"}, FOUR]}, "has role 'human'; the roles"),
        ({"messages": [USER | {"value": "a"}, FOUR]}, "unknown key 'value'"),
        ({"messages": [{"role": "user"}, FOUR]}, "has no content"),
        ({"messages": [{"role": "user", "content": "\ud800"}, FOUR]}, "lone surrogate"),
        ({"messages": [USER]}, "last message is user; a record ends with an answer"),
        ({"messages": [FOUR]}, "first message is assistant"),
        ({"messages": [USER, FOUR | {"weight": 0}]}, "no assistant message has weight 1"),
        ({"messages": [USER, FOUR | {"weight": 0.5}]}, "weight is 0.5; it must be 0 or 1"),
        ({"messages": [USER, FOUR | {"weight": True}]}, "weight is True; it must be 0 or 1"),
        ({"messages": [USER | {"weight": 1}, FOUR]}, "user with weight 1"),
        ({"messages": [USER, FOUR | {"weight": 0}, FIVE]}, "another weight"),
        ({"messages": [USER, FOUR | {"content": " \n"}]}, r"messages\[1\] is an empty answer"),
        ({"messages": [USER, {"role": "assistant"}]}, r"messages\[1\] is an empty answer"),
        ({"messages": [USER, FOUR | {"prefix": True}]}, "answers to learn are whole"),
        ({"messages": [USER, call()]}, "calls 'add'; the tools of the record are: none"),
        ({"messages": [USER, call("sub")], "tools": [TOOL]}, "calls 'sub'; .* are: add"),
        ({"messages": [USER, call(arguments="{")], "tools": [TOOL]}, "arguments '{'; they must"),
        ({"messages": [USER, call(arguments="[]")], "tools": [TOOL]}, "must be a JSON object"),
        ({"messages": [USER, {"role": "tool", "content": "1"}, FOUR]}, "no tool call before it"),
        ({"messages": [USER, FOUR], "tools": [{"name": "add"}]}, r"tools\[0\] must be of the form"),
    ],
)
def test_bad_conversation_is_refused_with_its_reason(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_conversation(record)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER], "chosen": FOUR, "rejected": FIVE},
        {"messages": [USER], "chosen": "4", "rejected": "5"},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]},
        {"chosen": [USER, FOUR], "rejected": [USER, FIVE]},
    ],
)
def test_every_spelling_of_a_preference_gives_the_same_pair(record: dict[str, Any]) -> None:
    pair = parse_preference(record)
    assert (pair.messages, pair.chosen, pair.rejected) == ([USER], FOUR, FIVE)


def test_answers_of_a_preference_may_be_calls() -> None:
    value = {"messages": [USER], "tools": [TOOL], "chosen": call(), "rejected": "4"}
    assert parse_preference(value).chosen["tool_calls"][0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "a", "chosen": "4"}, "has no 'rejected'"),
        ({"prompt": "a", "messages": [USER], "chosen": "4", "rejected": "5"}, "has both"),
        ({"chosen": "4", "rejected": "5"}, "has no 'messages' or 'prompt'"),
        ({"prompt": "a", "chosen": "4", "rejected": "4"}, "are the same"),
        ({"chosen": [USER, FOUR], "rejected": [USER, FOUR]}, "are the same"),
        ({"prompt": "a", "chosen": [USER, FOUR], "rejected": "5"}, "has 2 messages after the"),
        ({"prompt": "a", "chosen": USER, "rejected": "5"}, "chosen is a user message"),
        ({"prompt": "a", "chosen": " ", "rejected": "5"}, "chosen is an empty answer"),
        ({"prompt": 3, "chosen": "4", "rejected": "5"}, "a text or a list of messages"),
        ({"messages": [USER, FOUR], "chosen": "4", "rejected": "5"}, "end with an answer"),
    ],
)
def test_bad_preference_is_refused_with_its_reason(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_preference(record)


@pytest.mark.parametrize("text", ["", "  ", 3, "\udc00"])
def test_bad_document_is_refused(text: object) -> None:
    with pytest.raises(InvalidRequest, match="text"):
        parse_document({"text": text})


def test_records_of_one_question_have_one_key() -> None:
    keys = {
        parse_conversation({"messages": [USER, FOUR]}).key(),
        parse_conversation({"messages": [USER, FIVE], "source": "b"}).key(),
        parse_preference({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}).key(),
    }
    assert len(keys) == 1
    assert parse_conversation({"messages": [USER, FOUR, USER, FIVE]}).key() not in keys


def test_every_bad_line_is_found_and_the_first_are_named(tmp_path: Path) -> None:
    good = {"messages": [USER, FOUR]}
    path = write(tmp_path / "a.jsonl", good, "{", "", [1], *[{"text": "a"}] * 6, good)
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith("8 of 10 records cannot be used: ")
    assert f"{path}:2: not JSON" in message
    assert f"{path}:4: the line holds a JSON list" in message
    assert f"{path}:7: the record has no 'messages'" in message
    assert f"{path}:8:" not in message
    assert message.endswith("; and 3 more.")
    assert "\n" not in message


def test_bytes_that_are_not_utf8_and_lines_without_end_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "MAX_LINE_BYTES", 2**20)
    good = json.dumps({"messages": [USER, FOUR]}).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\xff\n" + b"x" * (3 * 2**20) + b"\n" + good)
    reader = RecordReader([path], parse_conversation)
    assert len(list(reader)) == 2
    with pytest.raises(ConfigError, match="2 of 4 records") as caught:
        reader.check()
    assert f"{path}:2: not UTF-8: byte 0xff at 0" in str(caught.value)
    assert f"{path}:3: the line is longer than 1 MiB" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[", "write one object per line instead"),
        ("[" * 100_000, "nested too deeply"),
        ('{"messages": NaN}', "NaN is no number"),
        ('{"text": "a", "text": "b"}', "the key 'text' stands twice in one object"),
        (f'{{"messages": {"9" * 5000}}}', "a number has too many digits"),
    ],
)
def test_json_that_is_no_record_is_explained(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read(write(tmp_path / "a.jsonl", line))


@pytest.mark.parametrize(
    ("encode", "reason"),
    [
        (lambda text: gzip.compress(text.encode()), "is compressed by gzip; unpack it first"),
        (lambda text: text.encode("utf-16"), "is written in UTF-16; write it in UTF-8"),
        (lambda text: b"PAR1" + text.encode(), "is a Parquet file"),
    ],
)
def test_file_of_another_kind_is_named_once(
    tmp_path: Path, encode: Callable[[str], bytes], reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode(3 * (json.dumps({"messages": [USER, FOUR]}) + "\n")))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} {reason}")


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; name the files in it"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=r"b.jsonl is empty"):
        read(write(tmp_path / "b.jsonl", "", " "))
    with pytest.raises(ConfigError, match="no data file is named"):
        list(RecordReader([], parse_conversation))


def test_a_reader_goes_through_its_files_in_order(tmp_path: Path) -> None:
    records = [{"messages": [USER, answer]} for answer in (FOUR, FIVE)]
    paths = [write(tmp_path / f"{i}.jsonl", record) for i, record in enumerate(records)]
    reader = RecordReader(paths, parse_conversation)
    assert [line.record.messages[1] for line in reader] == [FOUR, FIVE]
    reader.check()
    assert reader.num_records == 2


def test_places_of_all_bad_records_are_told_as_they_are_met(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{}] * 7)
    met: list[tuple[str, str]] = []
    reader = RecordReader([path], parse_conversation, on_bad=lambda *what: met.append(what))
    assert not list(reader)
    assert [place for place, _ in met] == [f"{path}:{number}" for number in range(1, 8)]


def test_error_names_the_command_that_lists_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{}] * 7)
    for listed_by, said in (("show --all", "and 2 more (show --all lists"), (None, "and 2 more.")):
        reader = RecordReader([path], parse_conversation, listed_by=listed_by)
        assert not list(reader)
        with pytest.raises(ConfigError, match=re.escape(said)):
            reader.check()
