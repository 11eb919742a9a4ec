"""Whole answers: random logits under the masks, read back, for both templates."""

import json
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools import ToolPlan, plan_tools
from mixtral.tools.definitions import read_tools
from mixtral.tools.grammar import MAX_CALLS, validator_of
from mixtral.tools.markers import CALLS_MARKER, marker_token_ids
from tests.tools.tools_for_tests import (
    TIME,
    USER,
    WEATHER,
    RandomAnswer,
    assert_valid,
    read,
)

NAMED = {"type": "function", "function": {"name": "get_time"}}
CALLS = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_time"}}]},
    {"role": "tool", "name": "get_time", "content": "noon"},
]


def make_plan(
    tokenizer: Tokenizer, compiler: GrammarCompiler, messages: Any = (USER,), **fields: Any
) -> ToolPlan:
    plan = plan_tools(tokenizer, compiler, messages=list(messages), **fields)
    assert plan is not None
    return plan


def tool(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_request_without_tools_needs_no_plan(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    for tools in (None, []):
        for choice in (None, "auto", "none"):
            plan = plan_tools(tokenizer, compiler, messages=[USER], tools=tools, tool_choice=choice)
            assert plan is None


@pytest.mark.parametrize("choice", ["any", "required", NAMED])
@pytest.mark.parametrize("seed", range(3))
def test_forced_call_is_valid_from_random_logits(
    choice: Any, seed: int, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    tools = [WEATHER, TIME]
    plan = make_plan(tokenizer, compiler, tools=tools, tool_choice=choice)
    answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=120)
    text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
    assert (text, is_cut) == ("", False)
    assert 1 <= len(calls) <= MAX_CALLS
    for call in calls:
        assert_valid(call, tools)
    if choice == NAMED:
        assert {call.function.name for call in calls} == {"get_time"}


@pytest.mark.parametrize("place", range(36))
def test_forced_call_of_real_functions_is_valid_from_random_logits(
    place: int,
    tokenizers: dict[str, Tokenizer],
    compilers: dict[str, GrammarCompiler],
    real_tools: list[dict[str, Any]],
) -> None:
    tools = [real_tools[place], *(real_tools[(place + i) % len(real_tools)] for i in (7, 13))]
    name = tools[0]["function"]["name"]
    named = {"type": "function", "function": {"name": name}}
    for version, choice in zip(
        ("v1", "v3")[:: 1 - 2 * (place % 2)], ("required", named), strict=True
    ):
        tokenizer = tokenizers[version]
        plan = make_plan(tokenizer, compilers[version], tools=tools, tool_choice=choice)
        answer = RandomAnswer(tokenizer, plan, seed=place, max_tokens=200)
        text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
        assert (text, is_cut) == ("", False)
        assert calls
        assert choice == "required" or {call.function.name for call in calls} == {name}
        for call in calls:
            assert_valid(call, tools)


@pytest.mark.parametrize("seed", range(2))
def test_without_parallel_calls_there_is_exactly_one(
    seed: int, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(
        tokenizer, compiler, tools=[WEATHER, TIME], tool_choice="any", parallel_tool_calls=False
    )
    answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=120, end_bias=0.0)
    assert len(read(tokenizer, plan, answer.token_ids)[1]) == 1


def test_parallel_calls_are_all_given_out_and_end(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[TIME], tool_choice="any")
    numbers = set()
    for seed in range(12):
        answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=600, end_bias=0.0)
        assert answer.finish_reason == "stop"
        numbers.add(len(read(tokenizer, plan, answer.token_ids)[1]))
    assert len(numbers) > 1
    assert max(numbers) <= MAX_CALLS


def test_auto_lets_the_model_answer_in_text_without_masks(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER])
    said = tokenizer.encode("It is 21 degrees [TO day].", bos=False)
    answer = RandomAnswer(tokenizer, plan, seed=0, max_tokens=50, first=said, end_bias=1.0)
    assert answer.token_ids == [*said, tokenizer.eos_id]
    assert read(tokenizer, plan, answer.token_ids) == ("It is 21 degrees [TO day].", [], False)


@pytest.mark.parametrize("before", ["", "Let me look.\n"])
@pytest.mark.parametrize("seed", range(3))
def test_auto_holds_calls_to_the_grammar_once_they_begin(
    before: str, seed: int, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER, TIME], tool_choice="auto")
    said = tokenizer.encode(before, bos=False) + marker_token_ids(tokenizer)
    answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=200, first=said)
    text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
    assert (text.strip(), is_cut) == (before.strip(), False)
    assert calls
    for call in calls:
        assert_valid(call, [WEATHER, TIME])


def test_model_writes_calls_as_the_template_does(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    listed = (
        '[{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}, '
        '{"name": "get_time", "arguments": {}}]'
    )
    said = marker_token_ids(tokenizer) + tokenizer.encode(listed, bos=False) + [tokenizer.eos_id]
    for choice in ("auto", "required"):
        plan = make_plan(tokenizer, compiler, tools=[WEATHER, TIME], tool_choice=choice)
        answer = RandomAnswer(tokenizer, plan, seed=0, max_tokens=200, first=said)
        assert answer.token_ids == said
        _, calls, _ = read(tokenizer, plan, answer.token_ids)
        assert [call.function.name for call in calls] == ["get_weather", "get_time"]


@pytest.mark.parametrize("max_tokens", [40, 60, 90, 150])
@pytest.mark.parametrize("seed", range(3))
def test_calls_are_closed_in_time_when_max_tokens_ends_them(
    max_tokens: int, seed: int, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER], tool_choice="required")
    answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=max_tokens, end_bias=0.0)
    text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
    assert (text, is_cut) == ("", False)
    assert calls


@pytest.mark.parametrize("max_tokens", [1, 3, 9, 12])
def test_what_no_budget_can_hold_is_no_call(
    max_tokens: int, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER], tool_choice="required")
    answer = RandomAnswer(tokenizer, plan, seed=1, max_tokens=max_tokens)
    text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
    assert calls == []
    assert CALLS_MARKER.startswith(text[: len(CALLS_MARKER)])
    assert is_cut or tokenizer.version == "v1"


def test_none_keeps_tools_out_of_the_prompt_and_calls_out_of_the_answer(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER], tool_choice="none")
    assert plan.tools is None
    assert plan.messages == [USER]
    listed = ' [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
    said = marker_token_ids(tokenizer) + tokenizer.encode(listed, bos=False)
    answer = RandomAnswer(tokenizer, plan, seed=0, max_tokens=60, first=said)
    assert 5 not in answer.token_ids
    assert read(tokenizer, plan, answer.token_ids)[1] == []


def test_history_without_tools_is_encoded_and_gives_no_calls(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, CALLS)
    assert plan.tools is None
    assert not plan.validators
    token_ids = tokenizer.encode_chat(plan.messages, tools=plan.tools)
    assert "noon" in tokenizer.decode(token_ids)
    if tokenizer.version == "v3":
        assert 5 not in RandomAnswer(tokenizer, plan, seed=0, max_tokens=50).token_ids
    else:
        assert plan.grammar is None


def test_conversation_goes_on_with_what_the_answer_was(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    messages: list[dict[str, Any]] = [USER]
    for seed in range(4):
        plan = make_plan(tokenizer, compiler, messages, tools=[WEATHER, TIME], tool_choice="any")
        tokenizer.encode_chat(plan.messages, tools=plan.tools)
        answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=150)
        _, calls, _ = read(tokenizer, plan, answer.token_ids)
        sent = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
        messages += [{"role": "assistant", "content": "", "tool_calls": sent}]
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "1"} for call in calls]
    plan = make_plan(tokenizer, compiler, messages, tools=[WEATHER, TIME])
    token_ids = tokenizer.encode_chat(plan.messages, tools=plan.tools)
    if tokenizer.version == "v3":
        assert token_ids.count(5) == 4
    else:
        results = [m for m in plan.messages if str(m["content"]).startswith("[TOOL_RESULTS]")]
        assert len(results) == 4


@pytest.mark.parametrize(
    "parameters",
    [
        {
            "type": "object",
            "properties": {"shape": {"$ref": "#/$defs/shape"}, "next": {"$ref": "#"}},
            "required": ["shape"],
            "$defs": {"shape": {"anyOf": [{"type": "integer"}, {"enum": ["a", {"$ref": "#"}]}]}},
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": "https://example.com/tool",
            "type": "object",
            "properties": {"point": {"$ref": "#/definitions/point"}},
            "required": ["point"],
            "definitions": {
                "point": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                    "required": ["x", "y"],
                }
            },
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": "#/definitions/f",
            "definitions": {
                "f": {
                    "type": "object",
                    "properties": {
                        "pair": {
                            "type": "array",
                            "items": [{"type": "integer"}, {"type": "boolean"}],
                            "additionalItems": False,
                            "minItems": 1,
                        }
                    },
                    "required": ["pair"],
                }
            },
        },
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 3, "exclusiveMinimum": True}},
            "required": ["n"],
        },
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": True}, "required": ["a", "not_declared"]},
        {
            "type": "object",
            "properties": {"$ref": {"type": "string"}, "items": {"type": "null"}},
            "required": ["$ref", "items"],
        },
        {
            "type": "object",
            "properties": {"when": {"type": "string", "format": "date"}},
            "required": ["when"],
        },
        {"properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
    ],
)
def test_schema_holds_wherever_its_keywords_point(
    parameters: dict[str, Any], tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    tools = [WEATHER, tool(parameters)]
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        plan = make_plan(tokenizer, compiler, tools=tools, tool_choice=choice)
        for seed in range(2):
            answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=150)
            text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
            assert (text, is_cut) == ("", False)
            for call in calls:
                assert_valid(call, tools)


def test_calls_have_no_arguments_that_the_function_does_not_name(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    plan = make_plan(tokenizer, compiler, tools=[WEATHER, TIME], tool_choice="required")
    for seed in range(3):
        answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=200, end_bias=0.0)
        for call in read(tokenizer, plan, answer.token_ids)[1]:
            assert {*json.loads(call.function.arguments)} <= {"city", "unit"}


@pytest.mark.parametrize(
    ("parameters", "keyword"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "unique"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}}, "nowhere"),
        ({"type": "object", "properties": {"a": {"type": "strnig"}}}, "strnig"),
    ],
)
def test_schema_that_cannot_be_enforced_names_tool_and_keyword(
    parameters: Any, keyword: str, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    with pytest.raises(InvalidRequest, match=rf"tools\[1\].function.parameters.*{keyword}"):
        make_plan(tokenizer, compiler, tools=[WEATHER, tool(parameters)])


def test_tools_of_v1_are_described_in_the_system_text(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER]
    plan = make_plan(tokenizers["v1"], compilers["v1"], messages, tools=[WEATHER])
    assert plan.tools is None
    assert [m["role"] for m in plan.messages] == ["system", "system", "user"]
    assert "get_weather" in plan.messages[1]["content"]


def test_tools_of_v3_go_into_the_template(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    plan = make_plan(tokenizers["v3"], compilers["v3"], tools=[WEATHER, TIME], tool_choice=NAMED)
    token_ids = tokenizers["v3"].encode_chat(plan.messages, tools=plan.tools)
    assert token_ids == tokenizers["v3"].encode_chat([USER], tools=[WEATHER, TIME])


@pytest.mark.parametrize(
    "condition",
    [{"required": 5}, {"type": "foo"}, {"$ref": "#/nope"}, {"$ref": "http://10.0.0.5/x"}],
)
def test_second_look_at_arguments_passes_what_it_cannot_judge_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch, condition: dict[str, Any]
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", None)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "if": condition}
    (definition,) = read_tools([tool(schema)])
    validator = validator_of(definition)
    assert validator.is_valid({"n": 1})
    (plain,) = read_tools([tool({"type": "object", "properties": {"n": {"type": "integer"}}})])
    assert not validator_of(plain).is_valid({"n": "one"})


def test_second_look_at_arguments_runs_no_pattern_of_a_client() -> None:
    for_ever = {"type": "string", "pattern": "^(?:(?:a+)+b{60}|a{40}c)$"}
    schema = {"type": "object", "properties": {"s": for_ever}, "patternProperties": {"(a+)+b": {}}}
    (definition,) = read_tools([tool(schema)])
    assert validator_of(definition).is_valid({"s": "a" * 40 + "c", "a" * 40: 1})
