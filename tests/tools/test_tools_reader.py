"""Calls come out of an answer whole, all of them, however the answer is cut into pieces."""

import itertools
import json
import random
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtral.outputs import ToolCall
from mixtral.tools import ToolCallReader

ANY = jsonschema.Draft202012Validator({})
CITY = jsonschema.Draft202012Validator(
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
TWO = '[{"name": "f", "arguments": {"city": "a]}\\"{["}}, {"name": "g", "arguments": {}}]'
MARKER = "[TOOL_CALLS]"


def make_reader(marker_id: int | None, *, is_open: bool = True) -> ToolCallReader:
    return ToolCallReader(
        validators={"f": CITY, "g": ANY, "h": ANY}, marker_id=marker_id, is_open=is_open
    )


def read(
    marker_id: int | None, before: str, after: str, cuts: list[int]
) -> tuple[str, list[tuple[str, str]], bool]:
    """Push an answer with its marker in pieces that end at the cuts."""
    reader = make_reader(marker_id)
    pushes: list[tuple[int, str]] = []
    if marker_id is None:
        pushes = [(300, piece) for piece in pieces(before + MARKER + after, cuts)]
    else:
        pushes = [(300, piece) for piece in pieces(before, cuts)]
        pushes += [(marker_id, "")]
        pushes += [(300, piece) for piece in pieces(after, cuts)]
    text, calls = "", list[ToolCall]()
    for token_id, piece in pushes:
        shown, new = reader.push(token_id, piece)
        text, calls = text + shown, calls + new
    shown, new = reader.flush()
    functions = [(call.function.name, call.function.arguments) for call in calls + new]
    return text + shown, functions, reader.is_cut


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("marker_id", [5, None])
@given(cuts=st.lists(st.integers(0, 120), max_size=130))
def test_every_split_gives_text_and_both_calls(marker_id: int | None, cuts: list[int]) -> None:
    expected = ("Let me [TOOL see.\n", [("f", '{"city": "a]}\\"{["}'), ("g", "{}")], False)
    assert read(marker_id, "Let me [TOOL see.\n", " " + TWO, cuts) == expected


@pytest.mark.parametrize("marker_id", [5, None])
def test_call_is_given_out_with_its_closing_brace(marker_id: int | None) -> None:
    reader = make_reader(marker_id)
    reader.push(5, MARKER if marker_id is None else "")
    given_after = [len(reader.push(300, character)[1]) for character in TWO]
    first, second = TWO.index("}, ") + 1, len(TWO) - 1
    assert [i + 1 for i, count in enumerate(given_after) if count] == [first, second]


def test_ids_are_nine_letters_or_digits_and_never_twice() -> None:
    reader = make_reader(5)
    reader.push(5, "")
    many = ", ".join(['{"name": "g", "arguments": {}, "id": "abcdefghi"}'] * 500)
    _, calls = reader.push(300, f"[{many}]")
    ids = [call.id for call in calls]
    assert len(set(ids)) == 500
    assert "abcdefghi" not in ids
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call_id) for call_id in ids)


@pytest.mark.parametrize(
    "written",
    [
        '[{"name":"g","arguments":{"a":1}}]',
        '\n [ {\n "name" : "g" ,\t"arguments" : {"a":1} } \n] ',
        '[{"arguments": {"a":1}, "name": "g"}]',
        '[{"id": "123456789", "name": "g", "arguments": {"a":1}}]',
    ],
)
def test_white_space_order_and_other_keys_do_not_matter(written: str) -> None:
    assert read(5, "", written, []) == ("", [("g", '{"a":1}')], False)


def test_arguments_keep_the_numbers_that_the_model_wrote() -> None:
    arguments = '{"x": 1e400, "y": 1.50, "z": 12345678901234567890123}'
    _, calls, _ = read(5, "", f'[{{"name": "g", "arguments": {arguments}}}]', [])
    assert calls == [("g", arguments)]


@pytest.mark.parametrize("before", ["", " ", "\n\n"])
@pytest.mark.parametrize("marker_id", [5, None])
def test_answer_that_only_calls_has_no_text(marker_id: int | None, before: str) -> None:
    assert read(marker_id, before, " " + TWO, list(range(200)))[0] == ""


@pytest.mark.parametrize("end", range(1, len(TWO)))
@pytest.mark.parametrize("marker_id", [5, None])
def test_cut_list_gives_whole_calls_and_the_rest_as_text(marker_id: int | None, end: int) -> None:
    cut = TWO[:end]
    text, calls, is_cut = read(marker_id, "Hm.", " " + cut, list(range(200)))
    assert is_cut
    first = TWO.index("}, ") + 1
    rest = cut[first:].lstrip(", ")
    if end < first:
        assert (text, calls) == (f"Hm.{MARKER} {cut}", [])
    elif end < len(TWO) - 1:
        assert (text, len(calls)) == (f"Hm.{MARKER} {rest}" if rest else "Hm.", 1)
    else:
        assert (text, len(calls)) == ("Hm.", 2)


@pytest.mark.parametrize(
    "item",
    [
        '{"name": "nobody", "arguments": {}}',
        '{"name": "f", "arguments": {"city": 3}}',
        '{"name": "f", "arguments": {}}',
        '{"name": "g"}',
        '{"name": ["g"], "arguments": {}}',
        '{"name": "g", "arguments": {"x": NaN}}',
        '{"name": "g", "arguments": {"x": "\\ud800"}}',
        '{"name": "g", "arguments": {"x": ' + "1" * 5000 + "}}",
        '{"name": "g", "arguments": ' + '{"x": ' * 5000 + "1" + "}" * 5000 + "}",
        '{"name": "g" "arguments": {}}',
        '{"name": "g", "arguments": {]}',
        "{]",
        "{,}",
        "g()",
    ],
)
@pytest.mark.parametrize("num_pieces", [1, 1000])
def test_what_is_no_valid_call_is_text_from_there_on(item: str, num_pieces: int) -> None:
    answer = f'[{{"name": "h", "arguments": {{}}}}, {item}, {{"name": "h", "arguments": {{}}}}]'
    cuts = [] if num_pieces == 1 else list(range(num_pieces))
    text, calls, is_cut = read(5, "", answer, cuts)
    assert calls == [("h", "{}")]
    assert text == f'{MARKER} {item}, {{"name": "h", "arguments": {{}}}}]'
    assert is_cut


@pytest.mark.parametrize("answer", ["[]", "Hello", '{"name": "g", "arguments": {}}'])
def test_marker_without_a_list_of_calls_is_shown_as_text(answer: str) -> None:
    assert read(5, "", answer, []) == (f"{MARKER} {answer}", [], True)


def test_marker_alone_is_shown() -> None:
    assert read(5, "", "", []) == (MARKER, [], True)


def test_text_behind_the_list_is_shown() -> None:
    text, calls, is_cut = read(5, "", '[{"name": "g", "arguments": {}}]\nDone.', list(range(60)))
    assert (text, calls, is_cut) == ("\nDone.", [("g", "{}")], False)


@pytest.mark.parametrize("answer", ["", "[", "[TOOL_CALL", "Use [TOOL] x[[TOOL_CALLS ] [[", " \n"])
def test_text_that_only_looks_like_a_marker_comes_back_whole(answer: str) -> None:
    for cuts in ([], list(range(60))):
        reader = make_reader(None)
        shown = "".join(reader.push(300, piece)[0] for piece in pieces(answer, cuts))
        assert shown + reader.flush()[0] == answer
        assert not reader.is_cut


def test_doubled_bracket_before_the_marker_is_text() -> None:
    text, calls, _ = read(None, "[[TOOL_", ' [{"name": "g", "arguments": {}}]', list(range(60)))
    assert (text, calls) == ("[[TOOL_", [("g", "{}")])


def test_text_streams_at_once_where_no_marker_can_be() -> None:
    reader = make_reader(None)
    shown = [reader.push(300, piece)[0] for piece in ("Hi", " there", " [T", "im]", ".")]
    assert shown == ["Hi", " there", " ", "[Tim]", "."]


@pytest.mark.parametrize("marker_id", [5, None])
def test_closed_reader_never_gives_a_call(marker_id: int | None) -> None:
    reader = make_reader(marker_id, is_open=False)
    assert reader.push(5, f"{MARKER} {TWO}") == (f"{MARKER} {TWO}", [])
    assert reader.flush() == ("", [])
    assert not reader.is_cut


@pytest.mark.parametrize("seed", range(20))
def test_garbage_never_raises(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = '[]{}",:\\ nametrgus1e-' + "\n"
    reader = make_reader(5)
    reader.push(5, "")
    for _ in range(300):
        reader.push(300, "".join(rng.choices(alphabet, k=rng.randrange(6))))
    reader.flush()


def test_one_call_of_many_arguments_is_read_in_time_linear_in_its_length() -> None:
    arguments = json.dumps({f"k{i}": "v" * 20 for i in range(2000)})
    answer = f'[{{"name": "g", "arguments": {arguments}}}]'
    _, calls, _ = read(5, "", answer, list(range(0, len(answer), 4)))
    assert calls == [("g", arguments)]
