"""What a docstring says of a function: its purpose, and the meaning of each argument.

Google's style, as in https://google.github.io/styleguide/pyguide.html#383-functions-and-methods:
text first, then sections such as ``Args:`` whose entries are indented below. The text tells a model
when to call the function, the entries what to put into it; other sections are for people.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Keyword Args|Keyword Arguments|Attributes|Example|Examples|Note|"
    r"Notes|Raises|References|Return|Returns|See Also|Todo|Warning|Warnings|Warns|Yield|Yields):"
)
_ARGUMENTS = frozenset({"Args", "Arguments", "Parameters", "Keyword Args", "Keyword Arguments"})
_ENTRY = re.compile(r"(\w+(?:, \w+)*)\s*(?:\(.*?\))?:\s*(.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Docs:
    """What a docstring says."""

    text: str
    """Everything before the first section, each paragraph on one line; empty for none."""
    arguments: dict[str, str]
    """Meaning by name of argument, each on one line."""


def read_docstring(docstring: str | None) -> Docs:
    """Read a docstring; of other styles, everything is text.

    >>> docs = read_docstring('''Return the weather.
    ...
    ... Args:
    ...     city: Its name,
    ...         in English.
    ... ''')
    >>> docs.text, docs.arguments
    ('Return the weather.', {'city': 'Its name, in English.'})
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    text: list[str] = []
    arguments: dict[str, str] = {}
    for name, section in _sections(lines):
        if name is None:
            text = section
        elif name in _ARGUMENTS:
            arguments |= _entries(section)
    return Docs(text=_paragraphs(text), arguments=arguments)


def _sections(lines: list[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Yield each section with its name; None is the text before the first."""
    name: str | None = None
    section: list[str] = []
    for line in lines:
        found = _SECTION.fullmatch(line.rstrip())
        if found:
            yield name, section
            name, section = found[1], []
        else:
            section.append(line)
    yield name, section


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the entries of a section; what is indented deeper goes on with the entry above."""
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc("\n" + "\n".join(lines)).splitlines():
        found = _ENTRY.fullmatch(line.rstrip())
        if found and not line.startswith(" "):
            names = found[1].split(", ")
            entries |= dict.fromkeys(names, found[2])
        elif line.strip() and names:
            entries |= {name: f"{entries[name]} {line.strip()}".strip() for name in names}
    return entries


def _paragraphs(lines: list[str]) -> str:
    blocks = "\n".join(line.strip() for line in lines).split("\n\n")
    return "\n".join(" ".join(block.split()) for block in blocks if block.strip())
