"""Python functions as tools: schema, validation, and what is refused when the tool is made."""

import asyncio
import enum
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from mixtral.agent.function_tool import function_tool
from mixtral.agent.tool import ArgumentsError
from mixtral.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A place."""

    city: str
    title: str = "none"


@dataclass
class Size:
    width: int
    height: int


def search(
    place: Place,
    kind: Literal["map", "photo"],
    size: Size | None = None,
    count: Annotated[int, Field(ge=1, le=9)] = 3,
    colours: set[Colour] = frozenset(),  # type: ignore[assignment]
    *,
    day: Annotated[date, "the day in question"] = date(2024, 1, 31),
) -> list[Any]:
    """Search for pictures.

    Args:
        place: Where.
        kind: What.
        day: Not this text.
    """
    return [place, kind, size, count, colours, day]


def test_schema_says_what_hints_and_docstring_say() -> None:
    tool = function_tool(search)
    assert tool.name == "search"
    assert tool.description == "Search for pictures."
    properties = tool.parameters["properties"]
    assert properties["count"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 3}
    assert properties["kind"] == {
        "type": "string",
        "enum": ["map", "photo"],
        "description": "What.",
    }
    assert properties["day"]["description"] == "the day in question"
    assert properties["place"]["description"] == "Where."
    assert tool.parameters["required"] == ["place", "kind"]
    assert tool.parameters["additionalProperties"] is False
    # A property may be called "title"; the annotation of that name is left out.
    assert set(tool.parameters["$defs"]["Place"]["properties"]) == {"city", "title"}
    assert "title" not in tool.parameters["$defs"]["Place"]
    assert "uniqueItems" not in properties["colours"]


def test_schema_is_one_that_grammars_can_hold() -> None:
    from mixtral.structured.schema_check import check_schema

    check_schema(function_tool(search).parameters)


def test_function_gets_values_of_its_types() -> None:
    tool = function_tool(search)
    arguments = {
        "place": {"city": "Rome"},
        "kind": "map",
        "size": {"width": 2, "height": 3},
        "colours": ["red", "red"],
        "day": "2025-02-28",
    }
    assert tool.run(tool.checked(arguments)) == [
        Place(city="Rome"),
        "map",
        Size(2, 3),
        3,
        {Colour.RED},
        date(2025, 2, 28),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kind": "map"}, "place: Field required"),
        ({"place": {}, "kind": "map"}, "place.city: Field required"),
        ({"place": {"city": "Rome"}, "kind": "film"}, "kind: Input should be 'map' or 'photo'"),
        ({"place": {"city": "Rome"}, "kind": "map", "count": 10}, "count: Input should be less"),
        ({"place": {"city": "Rome"}, "kind": "map", "x": 1}, "x: Extra inputs are not permitted"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ArgumentsError, match=expected) as caught:
        function_tool(search).checked(arguments)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_names_that_pydantic_keeps_for_itself_are_ordinary_arguments() -> None:
    def odd(json: str, _hidden: int, model_config: int = 1, copy: bool = True) -> tuple[Any, ...]:
        return json, _hidden, model_config, copy

    tool = function_tool(odd)
    assert tool.parameters["required"] == ["json", "_hidden"]
    assert tool.run(tool.checked({"json": "a", "_hidden": 2})) == ("a", 2, 1, True)


def test_default_that_json_cannot_spell_stays_a_default() -> None:
    def keep(marker: Any = object) -> bool:
        return marker is object

    tool = function_tool(keep)
    assert "default" not in tool.parameters["properties"]["marker"]
    assert tool.run(tool.checked({})) is True


def test_async_functions_methods_and_callables_are_tools() -> None:
    class Counter:
        """Counts."""

        def __init__(self) -> None:
            self.total = 0

        def add(self, number: int) -> int:
            """Add to the total."""
            self.total += number
            return self.total

        async def later(self, number: int) -> int:
            """Add to the total, later."""
            await asyncio.sleep(0)
            return self.add(number)

        def __call__(self, number: int) -> int:
            return self.add(number)

    counter = Counter()
    for made in (counter.add, counter.later, counter):
        tool = function_tool(made)
        assert list(tool.parameters["properties"]) == ["number"]
        tool.run(tool.checked({"number": 2}))
    assert counter.total == 6
    assert function_tool(counter, name="count").name == "count"


def any_number(*numbers: int) -> int:
    return sum(numbers)


def any_names(**names: int) -> int:
    return sum(names.values())


def no_hint(city) -> str:  # type: ignore[no-untyped-def]
    return str(city)


def without_a_limit(low: float = -math.inf, high: float | None = math.nan) -> str:
    return f"{low} {high}"


def test_default_that_json_has_no_form_for_is_kept_out_of_the_schema() -> None:
    tool = function_tool(without_a_limit)
    assert "default" not in json.dumps(tool.parameters)
    assert "required" not in tool.parameters
    assert tool.run(tool.checked({})) == "-inf nan"


def by_position(city: str, /) -> str:
    return city


def unknown_type(city: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(city)


def foreign_type(stream: asyncio.AbstractEventLoop) -> str:
    return str(stream)


def without_json_form(work: Callable[[int], int]) -> str:
    return str(work)


def field_as_default(count: int = Field(3, ge=1)) -> int:
    return count


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (any_number, r"any_number takes \*numbers: int; a tool names all its arguments"),
        (any_names, r"any_names takes \*\*names: int; a tool names all its arguments"),
        (no_hint, "no_hint has no type hint for city"),
        (by_position, "by_position takes city by position only"),
        (unknown_type, "the type hints of unknown_type cannot be read: name 'Nowhere'"),
        (foreign_type, "the type hints of foreign_type cannot be checked"),
        (without_json_form, "without_json_form has a type that JSON cannot spell"),
        (field_as_default, r"write count: Annotated\[..., Field\(...\)\]"),
        (lambda: 1, "a tool is named '<lambda>'"),
        ("search", "a tool is a str; it must be a function"),
    ],
)
def test_functions_that_no_model_could_call_are_refused(function: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        function_tool(function)
    assert "\n" not in str(caught.value)
