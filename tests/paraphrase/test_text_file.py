"""Texts of files, with the numbers of their lines."""

from pathlib import Path

import pytest

from mixtral.errors import InvalidRequest
from mixtral.paraphrase.text_file import read_texts


def read(folder: Path, name: str, content: str | bytes, column: str | None = None) -> object:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(line.number, line.text) for line in read_texts(path, column=column)]


def test_lines_keep_their_numbers_and_lose_white_space(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfone\r\n\n   \n\ttwo \nthree"
    assert read(tmp_path, "a.txt", text) == [(1, "one"), (4, "two"), (5, "three")]


def test_columns_of_csv_may_hold_commas_and_lines(tmp_path: Path) -> None:
    text = 'id,text\n1,"one, and\nmore"\n2,\n3,three\n4\n'
    assert read(tmp_path, "a.csv", text) == [(3, "one, and\nmore"), (5, "three")]
    assert read(tmp_path, "a.tsv", "q\ttext\na b\tc\n", column="q") == [(2, "a b")]


def test_json_lines_hold_objects_or_texts(tmp_path: Path) -> None:
    text = '{"text": "one", "n": 1}\n\n"two"\n{"text": " "}\n'
    assert read(tmp_path, "a.jsonl", text) == [(1, "one"), (3, "two")]


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        ("a.csv", "id,name\n1,a\n", None, "no column 'text'; its columns are: id, name"),
        ("a.csv", "", None, "its columns are: none"),
        ("a.csv", 'text\n"open\n', None, "is not CSV"),
        ("a.csv", 'text\none\n"two"x\n', None, "line 3 is not CSV"),
        (
            "a.jsonl",
            '"one"\n{"text": "a\\ud800"}\n',
            None,
            "line 2 holds the lone surrogate U.D800",
        ),
        ("a.txt", "one\n", "text", "has no column 'text'"),
        ("a.jsonl", '{"a": 1}\n', "a", "line 1 has no text under 'a'"),
        ("a.jsonl", "[1]\n", None, "line 1 has a list"),
        ("a.jsonl", "one\n", None, "line 1 is not JSON"),
        ("a.txt", b"\xe9t\xe9\n", None, "is not UTF-8 text: byte 0xe9"),
    ],
)
def test_files_of_another_kind_say_why(
    tmp_path: Path, name: str, content: str | bytes, column: str | None, expected: str
) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        read(tmp_path, name, content, column)
