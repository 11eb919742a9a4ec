"""Two tools that every client offers the model, and what any call of them has to fulfil.

nano cannot choose a tool or its arguments well. The grammar makes it write a call that fits the
schema, and that is what is checked: the name, the id, and every argument.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

QUESTION = "What is the weather in Paris, and what is 2 plus 3?"

# Bounded, so that a weak model comes to an end.
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 16},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SUM = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99},
        "b": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
}


def tool(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    tool("get_weather", "Tell the weather in a city.", WEATHER),
    tool("add_numbers", "Add two whole numbers.", SUM),
]
RESULTS = {"get_weather": '{"temperature": 21, "sky": "clear"}', "add_numbers": "5"}


def assert_reason_is_honest(reason: str) -> None:
    """A weak model may go on making calls until its tokens are used up."""
    assert reason in ("tool_calls", "length"), reason


def assert_call_is_valid(call_id: str, name: str, arguments: object) -> None:
    """Check a call, its arguments a JSON text or already parsed."""
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", call_id), call_id
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert isinstance(values, dict), arguments
    if name == "get_weather":
        assert set(values) == {"city", "unit"}, values
        assert isinstance(values["city"], str)
        assert len(values["city"]) <= 16
        assert values["unit"] in ("celsius", "fahrenheit")
    else:
        assert name == "add_numbers", name
        assert set(values) == {"a", "b"}, values
        assert all(type(value) is int and 0 <= value <= 99 for value in values.values()), values
