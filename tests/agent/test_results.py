"""What tools return, as text."""

from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath

import pytest
from pydantic import BaseModel

from mixtral.agent.results import cut_text, error_text, result_text


@dataclass
class Point:
    x: int


class Named(BaseModel):
    name: str


class Odd:
    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "null"),
        ([Point(1), Named(name="a")], '[{"x":1},{"name":"a"}]'),
        (
            {"day": date(2024, 2, 29), "at": PurePosixPath("/tmp")},
            '{"day":"2024-02-29","at":"/tmp"}',
        ),
        (Odd(), '"odd"'),
        ("été 😀", "été 😀"),
    ],
)
def test_values_have_one_text(value: object, text: str) -> None:
    assert result_text(value) == text


@pytest.mark.parametrize("value", ["\ud800", '"\\ud800"', ["\udc00"], "[" * 100_000])
def test_values_that_no_template_could_hold_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be written as text"):
        result_text(value)


def test_errors_are_one_short_line() -> None:
    assert len(error_text("x" * 10_000)) < 600
    assert "\n" not in error_text("a\nb")


def test_text_at_the_limit_is_whole() -> None:
    assert cut_text("abc", 3) == "abc"
