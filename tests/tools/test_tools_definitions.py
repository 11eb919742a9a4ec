"""What a request may say about tools, and what it is told where it is wrong."""

import pytest

from mixtral.errors import InvalidRequest
from mixtral.tools.definitions import ToolChoice, read_choice, read_parallel, read_tools
from tests.tools.tools_for_tests import TIME, WEATHER


def function(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f", **fields}}


@pytest.mark.parametrize("tools", [None, [], ()])
def test_no_tools_are_an_empty_list(tools: object) -> None:
    assert read_tools(tools) == []


@pytest.mark.parametrize("strict", [None, True, False])
def test_tool_of_any_client_is_read(strict: bool | None) -> None:
    (tool,) = read_tools(
        [{"function": {"name": "a-B_9", "description": None, "parameters": None, "strict": strict}}]
    )
    assert (tool.name, tool.description, tool.parameters) == ("a-B_9", "", {})
    assert tool.schema == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("get_weather", "tools has type str"),
        ({"type": "function"}, "tools has type dict"),
        ([1], r"tools\[0\] must be of the form"),
        ([{"type": "function"}], r"tools\[0\] must be of the form"),
        ([{"type": "retrieval", "function": {"name": "f"}}], r"tools\[0\].type is 'retrieval'"),
        ([{**function(), "cache": 1}], r"tools\[0\] has the unknown key 'cache'"),
        ([function(returns={})], r"tools\[0\].function has the unknown key 'returns'"),
        ([function(name=None)], r"tools\[0\].function.name is None"),
        ([WEATHER, function(name="a b")], r"tools\[1\].function.name is 'a b'"),
        ([function(name="a\n")], r"function.name is 'a\\n'"),
        ([function(name="x" * 65)], "1 to 64"),
        ([function(description=3)], r"function.description has type int"),
        ([function(strict="yes")], r"function.strict is 'yes'"),
        ([function(parameters=[])], r"function.parameters has type list"),
        ([function(parameters={"type": "string"})], r"parameters.type is 'string'"),
        ([function(description="\ud800")], r"tools\[0\] holds the lone surrogate"),
        ([WEATHER, TIME, WEATHER], r"tools\[2\].*'get_weather', which tools\[0\] has too"),
        ([function(name=f"f{i}") for i in range(129)], "tools has 129 entries"),
    ],
)
def test_wrong_tools_are_refused_by_name(tools: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_tools(tools)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice(mode="auto")),
        ("auto", ToolChoice(mode="auto")),
        ("none", ToolChoice(mode="none")),
        ("any", ToolChoice(mode="required")),
        ("required", ToolChoice(mode="required")),
        (
            {"type": "function", "function": {"name": "get_time"}},
            ToolChoice(mode="required", name="get_time"),
        ),
    ],
)
def test_every_spelling_of_tool_choice_is_read(choice: object, expected: ToolChoice) -> None:
    assert read_choice(choice, read_tools([WEATHER, TIME])) == expected


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_choice_without_tools_means_no_calls(choice: object) -> None:
    assert read_choice(choice, []).mode == "none"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("always", "tool_choice is 'always'"),
        (True, "tool_choice is True"),
        ([], r"tool_choice is \[\]"),
        ({"type": "tool", "function": {"name": "get_time"}}, "the only form"),
        ({"type": "function", "name": "get_time"}, "the only form"),
        ({"type": "function", "function": {"name": 3}}, "the only form"),
        ({"type": "function", "function": {"name": "f"}}, "'f', which is not in tools"),
    ],
)
def test_wrong_tool_choice_is_refused(choice: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_choice(choice, read_tools([WEATHER, TIME]))


@pytest.mark.parametrize(
    "choice", ["any", "required", {"type": "function", "function": {"name": "f"}}]
)
def test_call_cannot_be_asked_for_without_tools(choice: object) -> None:
    with pytest.raises(InvalidRequest, match="tools"):
        read_choice(choice, [])


def test_parallel_tool_calls_is_a_boolean() -> None:
    assert [read_parallel(value) for value in (None, True, False)] == [True, True, False]
    with pytest.raises(InvalidRequest, match="parallel_tool_calls is 1"):
        read_parallel(1)
