r"""Regular expressions of schemas and requests, rewritten for the grammar engine.

A ``pattern`` is judged by whoever receives the answer: Python's ``re.search`` in most services, a
JavaScript engine elsewhere, while llguidance reads Rust's dialect. The three disagree in places:
``\D`` leaves out the Arabic digits in Python only, ``[a[b]`` is a nested class in Rust only, ``$``
means the end or a line break before it in Python only. So a pattern is read by Python's own parser
and written anew, in plain Rust syntax, so that what it matches matches in Python and JavaScript:

- ``\d`` and ``\w`` become their ASCII characters, ``\D`` and ``\W`` leave out every Unicode digit
  or word character; ``\s`` and ``\S`` likewise.
- A search becomes a match of the whole text: ``^`` and ``$`` at the edges are taken away, where
  they are missing any text may stand. In a pattern of the whole text they say nothing at the edges.
  Elsewhere they cannot be kept.
- Look-around, back-references, ``\b``, flags such as ``(?i)``, and conditional or atomic groups are
  refused; llguidance could not hold them, or the dialects differ.
"""

import re
import warnings
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

MAX_PATTERN_LENGTH = 20_000
"""Characters of a pattern."""

MAX_REPEAT = 10_000
"""Largest count in ``{m,n}``; counts inside of each other are multiplied."""

_ANY = "(?s:.*)"
_SPACE_CLASS = r"\x{9}-\x{d}\x{20}"
_NOT_SPACE_CLASS = r"\s\x{1c}-\x{1f}\x{85}\x{feff}"
_NOT_WORD_CLASS = r"\p{L}\p{M}\p{N}\p{Pc}"
_MAX_DEPTH = 50
_MAX_EXAMPLES = 12
_LONGEST_EXAMPLE = 4_096  # characters

# The parser is the one behind re.compile; its module has no public name since Python 3.11.
_parser: Any = import_module("re._parser")


class PatternError(ValueError):
    """A pattern that cannot be held; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """A pattern in Rust syntax that matches whole texts."""

    regex: str
    """Without anchors."""
    examples: tuple[str, ...]
    """Short texts that match, the shortest first: of each branch and each optional part one; none
    where they would be long."""


def read_pattern(pattern: str, *, is_search: bool = True) -> Pattern:
    """Read a pattern as ``re.search`` does, or as ``re.fullmatch`` without ``is_search``.

    Raises:
        PatternError: It is no regular expression, or has parts that cannot be held.
    """
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise PatternError(f"has {len(pattern):,} characters; {MAX_PATTERN_LENGTH:,} are allowed")
    try:
        with warnings.catch_warnings():
            # It warns of "[[" and "--", which a later Python may read in another way.
            warnings.simplefilter("error")
            tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise PatternError(f"is no regular expression of Python's re: {error}") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise PatternError("has flags such as (?i), which not every dialect knows")
    writer = _Writer()
    edge = _Edge.OPEN if is_search else _Edge.CLOSED
    edges = _Edges(left=edge, right=edge)
    regex = writer.sequence(list(tree), edges, 1, 0)
    return Pattern(regex=regex, examples=tuple(_examples(list(tree))))


def quote_pattern(text: str) -> str:
    """Return a pattern that matches one text and nothing else."""
    return "".join(_character(ord(c)) for c in text)


class _Edge(Enum):
    """What is beside a part."""

    INSIDE = "inside"
    """Other parts, so an anchor cannot be kept."""
    OPEN = "open"
    """The end of a search, beyond which any text may stand."""
    CLOSED = "closed"
    """The end of the text, where an anchor says nothing new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edges:
    """What is to the left and right of a part."""

    left: _Edge
    right: _Edge


class _Writer:
    """Writes the tree of Python's parser in Rust's syntax."""

    def sequence(self, items: list[Any], edges: _Edges, num_repeats: int, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise PatternError(f"has groups nested deeper than {_MAX_DEPTH}")
        left, right = edges.left, edges.right
        while items and left is not _Edge.INSIDE and _is_anchor(items[0], "AT_BEGINNING"):
            items, left = items[1:], _Edge.CLOSED
        while items and right is not _Edge.INSIDE and _is_anchor(items[-1], "AT_END"):
            items, right = items[:-1], _Edge.CLOSED
        if not items:
            return _ANY if _Edge.OPEN in (left, right) else ""
        parts = []
        for index, item in enumerate(items):
            inner = _Edges(
                left=left if index == 0 else _Edge.INSIDE,
                right=right if index == len(items) - 1 else _Edge.INSIDE,
            )
            parts.append(self._item(item, inner, num_repeats, depth))
        return "".join(parts)

    def _item(self, item: Any, edges: _Edges, num_repeats: int, depth: int) -> str:
        name, value = str(item[0]), item[1]
        if name == "SUBPATTERN":
            _, add_flags, del_flags, inner = value
            if add_flags or del_flags:
                raise PatternError("has flags such as (?i:...), which not every dialect knows")
            return f"(?:{self.sequence(list(inner), edges, num_repeats, depth + 1)})"
        if name == "BRANCH":
            branches = [self.sequence(list(b), edges, num_repeats, depth + 1) for b in value[1]]
            return f"(?:{'|'.join(branches)})"
        return _padded(self._plain(name, value, num_repeats, depth), edges)

    def _plain(self, name: str, value: Any, num_repeats: int, depth: int) -> str:
        if name == "LITERAL":
            return _character(value)
        if name == "NOT_LITERAL":
            return f"[^{_character(value)}]"
        if name == "ANY":
            return r"[^\x{a}\x{d}\x{2028}\x{2029}]"
        if name == "IN":
            return _character_class(value)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(value, num_repeats, depth)
        raise PatternError(f"has {_NAMES.get(name, name)}, which cannot be held")

    def _repeat(self, value: Any, num_repeats: int, depth: int) -> str:
        low, high, inner = int(value[0]), value[1], list(value[2])
        is_open = high == _parser.MAXREPEAT
        num_repeats *= max(1, low if is_open else int(high))
        if num_repeats > MAX_REPEAT:
            raise PatternError(f"repeats a part more than {MAX_REPEAT:,} times")
        inside = _Edges(left=_Edge.INSIDE, right=_Edge.INSIDE)
        text = self.sequence(inner, inside, num_repeats, depth + 1)
        return f"(?:{text}){{{low},{'' if is_open else int(high)}}}"


_NAMES = {
    "AT": "an anchor that is not ^ at its beginning or $ at its end",
    "ASSERT": "look-ahead or look-behind",
    "ASSERT_NOT": "look-ahead or look-behind",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a conditional group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
    "FAILURE": "an empty look-ahead",
}


def _is_anchor(item: Any, name: str) -> bool:
    return str(item[0]) == "AT" and str(item[1]) == name


def _padded(text: str, edges: _Edges) -> str:
    before, after = (_ANY if edge is _Edge.OPEN else "" for edge in (edges.left, edges.right))
    return f"{before}{text}{after}"


def _character(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    if 0xD800 <= code <= 0xDFFF:
        raise PatternError("names half of a surrogate pair, which is no character")
    return f"\\x{{{code:x}}}"


def _character_class(items: list[Any]) -> str:
    is_negated = str(items[0][0]) == "NEGATE"
    parts = [_class_part(str(name), value, is_negated) for name, value in items[is_negated:]]
    return f"[{'^' if is_negated else ''}{''.join(parts)}]"


def _class_part(name: str, value: Any, is_negated: bool) -> str:
    """Write a part of a class so that the whole class has nothing that a dialect leaves out."""
    if name == "LITERAL":
        return _character(value)
    if name == "RANGE":
        return f"{_character(value[0])}-{_character(value[1])}"
    category = str(value)
    if category not in _CATEGORIES:
        raise PatternError(f"has {category}, which cannot be held")
    return _CATEGORIES[category][is_negated]


# Of each category: the least that every dialect has, and the most that any dialect has.
_CATEGORIES = {
    "CATEGORY_DIGIT": ("0-9", r"\p{Nd}"),
    "CATEGORY_NOT_DIGIT": (r"[^\p{Nd}]", "[^0-9]"),
    "CATEGORY_SPACE": (_SPACE_CLASS, _NOT_SPACE_CLASS),
    "CATEGORY_NOT_SPACE": (f"[^{_NOT_SPACE_CLASS}]", f"[^{_SPACE_CLASS}]"),
    "CATEGORY_WORD": ("0-9A-Za-z_", _NOT_WORD_CLASS),
    "CATEGORY_NOT_WORD": (f"[^{_NOT_WORD_CLASS}]", "[^0-9A-Za-z_]"),
}


def _examples(items: list[Any]) -> list[str]:
    """Return short texts that the parts match one after the other; anchors match nothing.

    None where all would be long: they are copied with each part.
    """
    texts = [""]
    for name, value in items:
        options = _item_examples(str(name), value)
        if not options:
            return []
        # The shortest of everything, then one change at a time.
        texts = [text + options[0] for text in texts] + [texts[0] + o for o in options[1:]]
        texts = [text for text in dict.fromkeys(texts) if len(text) <= _LONGEST_EXAMPLE]
        if not texts:
            return []
        texts = texts[:_MAX_EXAMPLES]
    return sorted(texts, key=len)


def _item_examples(name: str, value: Any) -> list[str]:
    if name == "LITERAL":
        return [chr(value)]
    if name == "SUBPATTERN":
        return _examples(list(value[3]))
    if name == "BRANCH":
        texts = [text for branch in value[1] for text in _examples(list(branch))]
        return sorted(texts, key=len)[:_MAX_EXAMPLES]
    if name in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high = int(value[0]), value[1]
        counts = (low, low + 1) if high > low else (low,)
        inner = _examples(list(value[2]))
        texts = [
            text * count
            for count in counts
            for text in inner
            if len(text) * count <= _LONGEST_EXAMPLE
        ]
        return sorted(set(texts), key=len)[:_MAX_EXAMPLES]
    if name in ("IN", "NOT_LITERAL", "ANY"):
        return [_class_example(name, value)]
    return [""]


def _class_example(name: str, value: Any) -> str:
    if name == "ANY":
        return "a"
    if name == "NOT_LITERAL":
        return "b" if value == ord("a") else "a"
    is_negated = str(value[0][0]) == "NEGATE"
    if not is_negated and str(value[0][0]) != "CATEGORY":
        detail = value[0][1]
        return chr(detail if isinstance(detail, int) else detail[0])
    for character in "a0 -_.":
        is_in = any(_part_has(str(part), detail, character) for part, detail in value[is_negated:])
        if is_in != is_negated:
            return character
    return "a"


def _part_has(name: str, detail: Any, character: str) -> bool:
    if name == "LITERAL":
        return ord(character) == int(detail)
    if name == "RANGE":
        return bool(detail[0] <= ord(character) <= detail[1])
    category = str(detail).removeprefix("CATEGORY_")
    has = {
        "DIGIT": character.isdigit(),
        "SPACE": character.isspace(),
        "WORD": character.isalnum() or character == "_",
    }
    return has[category.removeprefix("NOT_")] != category.startswith("NOT_")
