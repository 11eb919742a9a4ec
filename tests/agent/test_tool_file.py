"""Which functions of a file become tools."""

import sys
from pathlib import Path

import pytest

from mixtral.agent import load_functions
from mixtral.errors import ConfigError

FILE = '''
from __future__ import annotations
from dataclasses import dataclass
from json import dumps
from neighbour import SCALE

@dataclass
class Point:
    x: int

def move(point: Point, by: int = 1) -> Point:
    """Move a point."""
    return Point(point.x + SCALE * by)

again = move

def silent(x: int) -> int:
    return x

def _hidden(x: int) -> int:
    """Not this one."""
    return x
'''


def write(folder: Path, text: str) -> Path:
    path = folder / "my tools.py"
    path.write_text(text)
    (folder / "neighbour.py").write_text("SCALE = 10\n")
    return path


def test_documented_public_functions_of_the_file_are_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = [*sys.path]
    found = load_functions(write(tmp_path, FILE))
    assert [tool.name for tool in found.tools] == ["move"]
    assert found.left_out == ["silent"]
    move = found.tools[0]
    assert move.run(move.checked({"point": {"x": 1}})).x == 11
    assert sys.path == before


def test_all_says_which_whatever_their_docstrings(tmp_path: Path) -> None:
    found = load_functions(write(tmp_path, FILE + '\n__all__ = ["silent", "move"]\n'))
    assert [tool.name for tool in found.tools] == ["silent", "move"]
    assert found.left_out == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", "has no tools"),
        ("x = 1\nraise ValueError('no')\n", r"could not be run: ValueError: no \(line 2\)"),
        ("x = 1\n\ndef (:\n", r"could not be run: SyntaxError: .* \(line 3\)"),
        ("import sys\nsys.exit(1)\n", "could not be run: SystemExit: 1"),
        ("__all__ = ['gone']\n", "lists 'gone', which the file does not define"),
        ("def f(x):\n    'Doc.'\n", "f has no type hint for x"),
        ("def f(): ...\n__all__ = [f]\n", r"__all__ of .* is \[<function f .*list of names"),
        ("__all__ = 5\n", "__all__ of .* is 5; it must be a list of names, each in quotes"),
        ("__all__ = 'f'\n", "is 'f'; it must be a list of names"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_functions(write(tmp_path, text))
    assert not any(
        name.startswith("mixtral tool file")
        and "my tools" in name
        and str(tmp_path) in name
        and "raise" in text
        for name in sys.modules
    )


def test_line_of_an_error_is_told_for_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools.py").write_text("x = 1\nraise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"ValueError: no \(line 2\)"):
        load_functions(Path("tools.py"))


def test_line_of_an_error_is_that_of_the_file_and_not_of_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "broken_neighbour.py").write_text("a = 1\nb = 2\nc = 3\ndef (:\n")
    (tmp_path / "tools.py").write_text("x = 1\nimport broken_neighbour\n")
    with pytest.raises(ConfigError, match=r"SyntaxError: .* \(line 2\)"):
        load_functions(tmp_path / "tools.py")


def test_missing_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        load_functions(tmp_path / "none.py")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"must end in \.py"):
        load_functions(tmp_path / "notes.txt")
