"""Calls and results of earlier turns, from every kind of client, for both templates."""

import copy
import json
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.tokenizer import Tokenizer
from mixtral.tools.definitions import read_tools
from mixtral.tools.history import has_tool_messages, link_messages, split_text_from_calls
from mixtral.tools.plain_turns import describe_tools, to_plain_turns
from tests.tools.tools_for_tests import TIME, USER, WEATHER


def call(name: str = "get_weather", arguments: Any = '{"city": "Paris"}', **fields: Any) -> Any:
    return {"function": {"name": name, "arguments": arguments}, **fields}


def calls(*tool_calls: Any, content: Any = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(tool_calls)}


def result(content: str = '{"celsius": 21}', **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **fields}


def ids_of(messages: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    sent = [c["id"] for m in messages for c in m.get("tool_calls") or []]
    answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    return sent, answered


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], False),
        ([USER, calls()], False),
        ([USER, calls(call())], True),
        ([USER, result()], True),
        ("text", False),
        (None, False),
        ([1, None], False),
    ],
)
def test_conversation_with_calls_or_results_is_recognised(messages: Any, expected: bool) -> None:
    assert has_tool_messages(messages) is expected


def test_id_of_nine_characters_stays() -> None:
    linked = link_messages([USER, calls(call(id="VvvODy9mT")), result(tool_call_id="VvvODy9mT")])
    assert ids_of(linked) == (["VvvODy9mT"], ["VvvODy9mT"])


def test_ids_of_other_clients_become_nine_characters_and_stay_linked() -> None:
    messages = [
        USER,
        calls(call(id="call_aaa", type="function"), call(id="call_bbb", type="function")),
        result(tool_call_id="call_bbb"),
        result(tool_call_id="call_aaa"),
    ]
    first, second = link_messages(messages), link_messages(messages)
    sent, answered = ids_of(first)
    assert sent == answered[::-1]
    assert len(set(sent)) == 2
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in sent)
    assert first == second


def test_next_turn_has_the_same_ids() -> None:
    turn = [USER, calls(call(), call(id="call_x")), result(), result()]
    later = [*turn, {"role": "assistant", "content": "Fine."}, USER]
    assert ids_of(link_messages(later)) == ids_of(link_messages(turn))


def test_results_without_ids_answer_calls_in_order() -> None:
    linked = link_messages(
        [USER, calls(call(id="abcdefghi"), call(id="jklmnopqr")), result(), result()]
    )
    assert ids_of(linked)[1] == ["abcdefghi", "jklmnopqr"]


@pytest.mark.parametrize("same", [None, "null", "abcdefghi"])
def test_calls_with_one_id_get_ids_of_their_own(same: str | None) -> None:
    linked = link_messages(
        [
            USER,
            calls(call(id=same), call(id=same)),
            result(tool_call_id=same),
            result(tool_call_id=same),
        ]
    )
    sent, answered = ids_of(linked)
    assert sent == answered
    assert len(set(sent)) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"a": "\u00e9"}, '{"a": "\u00e9"}'), ("", "{}"), (" ", "{}"), ('{"a":1}', '{"a":1}')],
)
def test_arguments_become_json_text(arguments: Any, text: str) -> None:
    linked = link_messages([USER, calls(call(arguments=arguments, index=0)), result()])
    assert linked[1]["tool_calls"][0]["function"]["arguments"] == text


def test_messages_of_the_client_stay_as_they_are() -> None:
    messages = [USER, calls(call(arguments={"a": 1}, index=0)), result()]
    before = copy.deepcopy(messages)
    link_messages(messages)
    assert messages == before


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, calls(call())], r"1 tool calls have no result before messages\[2\]"),
        ([USER, calls(call(), call()), result(), USER], r"1 tool calls .* before messages\[3\]"),
        ([USER, result()], r"messages\[1\] is a tool message, but no tool call"),
        ([USER, calls(call()), result(), result()], r"messages\[3\] is a tool message"),
        ([USER, calls(call(id="a")), result(tool_call_id="b")], r"tool_call_id is 'b'.*ids: a"),
        ([USER, calls(call(id=7)), result()], r"tool_calls\[0\].id is 7"),
        ([USER, calls(call(arguments=[1])), result()], "arguments has type list"),
        ([USER, calls(call(arguments={"a": {1}})), result()], "cannot be written as JSON"),
        ([USER, calls({"name": "f"}), result()], r"tool_calls\[0\] must hold"),
        (["text"], r"messages\[0\] has type str"),
    ],
)
def test_messages_that_do_not_belong_together_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        link_messages(messages)


def test_v3_encodes_histories_of_every_client(tokenizers: dict[str, Tokenizer]) -> None:
    messages = [
        USER,
        calls(call(id="call_1"), call(name="get_time", arguments=""), content="Let me look."),
        result(),
        result("noon"),
        {"role": "user", "content": "Thanks."},
    ]
    tokenizer = tokenizers["v3"]
    linked = split_text_from_calls(link_messages(messages))
    token_ids = tokenizer.encode_chat(linked, tools=[WEATHER])
    (first, second), _ = ids_of(linked)
    text = tokenizer.decode(token_ids)
    assert f'"city": "Paris"}}, "id": "{first}"}}' in text
    assert f'{{"name": "get_time", "arguments": {{}}, "id": "{second}"}}]' in text
    assert f'{{"content": {{"celsius": 21}}, "call_id": "{first}"}}' in text
    assert "Let me look." in text
    assert [token_ids.count(i) for i in (5, 6, 8)] == [1, 1, 2]


GOLDEN_V1 = """\
<s> [INST] Be brief.

You can call the functions listed below. To call, answer with one line of this form and nothing \
else:
[TOOL_CALLS] [{"name": "function_name", "arguments": {"argument_name": "value"}}]
To call several functions at once, put several objects into the list. Arguments must match the \
JSON schema in "parameters". You will be given the results after [TOOL_RESULTS]; use them to \
answer. If no function is needed, answer in plain text.
Functions, one per line:
{"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", \
"properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", \
"fahrenheit"]}}, "required": ["city"]}}
{"name": "get_time", "description": "", "parameters": {}}

Weather in Paris? [/INST] Let me look.

[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, \
{"name": "get_time", "arguments": {}}]</s> \
[INST] [TOOL_RESULTS] [{"name": "get_weather", "content": {"celsius": 21}}, \
{"name": "get_time", "content": "noon"}]

And in Rome? [/INST]"""


def test_v1_history_is_written_as_text_that_the_template_takes(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["v1"]
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        calls(
            call(id="call_1"),
            call(name="get_time", arguments={}),
            content=[{"type": "text", "text": "Let me look."}],
        ),
        result("noon", tool_call_id=None),
        result(tool_call_id="call_1", name="get_weather"),
        {"role": "user", "content": "And in Rome?"},
    ]
    messages[3], messages[4] = messages[4], messages[3]
    turns = to_plain_turns(link_messages(messages), read_tools([WEATHER, TIME]))
    token_ids = tokenizer.encode_chat(turns)
    spelled = "".join(tokenizer.decode_token(i) for i in token_ids)
    assert spelled.replace("<s> ", "<s> ") == GOLDEN_V1


def test_v1_results_stand_in_the_order_of_their_calls() -> None:
    linked = link_messages(
        [
            USER,
            calls(call(id="a"), call(id="b")),
            result("1", tool_call_id="b"),
            result("2", tool_call_id="a"),
        ]
    )
    last = to_plain_turns(linked, [])[-1]
    results = json.loads(last["content"].removeprefix("[TOOL_RESULTS] "))
    assert [item["content"] for item in results] == [2, 1]


def test_v1_conversation_of_many_rounds_ends_with_a_user_turn(
    tokenizers: dict[str, Tokenizer],
) -> None:
    rounds = [calls(call()), result(), calls(call()), result()]
    turns = to_plain_turns(link_messages([USER, *rounds, *rounds]), [])
    assert [turn["role"] for turn in turns] == ["user", *["assistant", "user"] * 4]
    tokenizers["v1"].encode_chat(turns)


def test_v1_prompt_describes_each_function_on_one_line() -> None:
    text = describe_tools(read_tools([WEATHER, TIME]))
    lines = [json.loads(line) for line in text.split("\n") if line.startswith('{"name"')]
    assert lines[0] == WEATHER["function"]
    assert lines[1] == {"name": "get_time", "description": "", "parameters": {}}
