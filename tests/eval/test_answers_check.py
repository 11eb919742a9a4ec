import pytest

from mixtral.errors import ConfigError
from mixtral.eval.answers_check import Call, is_refusal, is_right, wilson_interval

CALLS = [{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}]


@pytest.mark.parametrize(
    ("check", "text", "expected", "right"),
    [
        ("exact", "42 ", "42", True),
        ("exact", "42.", "42", False),
        ("exact", "4 2", "42", False),
        ("json", '{"b": 2, "a": "x"}', '{"a": "x", "b": 2}', True),
        ("json", '{\n "a": "x",\n "b": 2\n}', '{"a": "x", "b": 2}', True),
        ("json", '{"a": "x", "b": "2"}', '{"a": "x", "b": 2}', False),
        ("json", '{"a": "x", "b": true}', '{"a": "x", "b": 1}', False),
        ("json", '{"a": "x", "b": 2, "c": 3}', '{"a": "x", "b": 2}', False),
        ("json", '{"a": "x"}', '{"a": "x", "b": 2}', False),
        ("json", '{"a": "x", "b": 2', '{"a": "x", "b": 2}', False),
        ("json", 'JSON: {"a": 1}', '{"a": 1}', False),
        ("json", "[1]", "{}", False),
        ("text", "None of my tools can do that.", None, True),
        ("text", "", None, False),
        ("text", '[{"name": "f"}]', None, False),
        ("refusal", "I'm sorry, but I cannot help with that.", None, True),
        ("refusal", "Sure, first you need a key.", None, False),
        ("helpful", "Find its number with ps, then run kill.", ["ps", "kill"], True),
        ("helpful", "Run it.", ["ps", "kill"], False),
        ("helpful", "I'm sorry, but I cannot kill it with ps.", ["ps", "kill"], False),
        ("mentions", "I am a Small Demonstration model.", ["small", "demonstration"], True),
        ("mentions", "I am a small model.", ["small", "demonstration"], False),
    ],
)
def test_texts_are_judged_strictly(check: str, text: str, expected: object, right: bool) -> None:
    assert is_right(check, text, [], expected) == right


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([Call(name="get_weather", arguments='{"days": 2, "city": "Paris"}')], True),
        ([Call(name="get_weather", arguments='{"days": "2", "city": "Paris"}')], False),
        ([Call(name="get_weather", arguments='{"city": "Paris"}')], False),
        ([Call(name="weather", arguments='{"days": 2, "city": "Paris"}')], False),
        ([Call(name="get_weather", arguments='{"days": 2, "city": "Paris"}')] * 2, False),
        ([Call(name="get_weather", arguments='{"days": 2')], False),
        ([], False),
    ],
)
def test_calls_must_be_exactly_those_expected(calls: list[Call], right: bool) -> None:
    assert is_right("calls", "", calls, CALLS) == right


def test_the_order_of_parallel_calls_is_free() -> None:
    expected = [{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 2}}]
    calls = [Call(name="f", arguments='{"x": 2}'), Call(name="f", arguments='{"x": 1}')]
    assert is_right("calls", "", calls, expected)


@pytest.mark.parametrize("check", ["exact", "json", "text", "refusal", "helpful", "mentions"])
def test_a_call_is_never_right_where_text_is_wanted(check: str) -> None:
    call = Call(name="f", arguments="{}")
    expected: dict[str, object] = {"exact": "x", "json": "{}", "helpful": [], "mentions": []}
    assert not is_right(check, "x", [call], expected.get(check))


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I cannot help with that.", True),
        ("I can't do this.", True),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t do this.", True),
        ("Sorry, I won't write that.", True),
        ("I am sorry, but I will not say that.", True),
        ("No, I cannot do that.", True),
        ("I cannot see the weather.", False),
        ("I am sorry for what I did.", False),
        ("Sure. If I cannot, nobody can.", False),
        ("", False),
    ],
)
def test_refusals_are_told_from_not_knowing_and_from_apologies(text: str, refuses: bool) -> None:
    assert is_refusal(text) == refuses


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(ConfigError, match="check is 'near'"):
        is_right("near", "x", [], "x")


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (5, 10), (98, 100)])
def test_wilson_intervals_hold_the_share_and_stay_inside_0_to_1(right: int, total: int) -> None:
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert high - low > 0
    wider = wilson_interval(right, total)
    narrower = wilson_interval(10 * right, 10 * total)
    assert narrower[1] - narrower[0] < wider[1] - wider[0]
