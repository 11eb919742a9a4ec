"""Texts from files and folders."""

import gzip
import json
from pathlib import Path

import pytest

from mixtral.errors import ConfigError
from mixtral.eval.documents import Document, hash_documents, read_documents
from mixtral.reports.provenance import fingerprint_model


def test_files_lines_and_folders_give_documents_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\r\ntwo\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt.gz").write_bytes(gzip.compress(b"three"))
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ("four\u2028", "five"))
    (tmp_path / "a.jsonl").write_text(rows.replace("\\u2028", "\u2028") + "\n")
    (tmp_path / "README.md").write_text("not a text")
    (tmp_path / "wiki.test.raw").write_text("six")
    found = read_documents([tmp_path, tmp_path / "wiki.test.raw"])
    assert [document.text for document in found] == [
        "four\u2028",
        "five",
        "one\r\ntwo\n",
        "three",
        "six",
    ]
    assert found[1].name.endswith("a.jsonl:2")


def test_hash_is_of_the_texts_and_where_they_end() -> None:
    def of(*texts: str) -> str:
        return hash_documents([Document(name=str(n), text=t) for n, t in enumerate(texts)])

    assert of("ab", "c") == of("ab", "c")
    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("c", "ab")}) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "holds no text"),
        ("a.txt", b"abc\xe9", "is not UTF-8 text, from byte 3 on"),
        ("a.txt.gz", b"plain", "is no whole gzip file"),
        ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], "is no whole gzip file"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}', "line 2 has no text"),
        ("a.jsonl", b'{"text": 5}', "line 1 has no text"),
        ("a.jsonl", b"[", "line 1 is no JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1 has half of a surrogate pair"),
    ],
)
def test_files_without_a_text_are_named_with_the_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_documents([tmp_path / name])
    assert name in str(caught.value)


def test_missing_paths_and_folders_without_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no is not there"):
        read_documents([tmp_path / "no"])
    with pytest.raises(ConfigError, match="has no file that ends with"):
        read_documents([tmp_path])


def test_fingerprint_changes_with_either_end_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(
        (Path(__file__).parents[2] / "src/mixtral/models/nano/config.json").read_bytes()
    )
    weights = tmp_path / "model.safetensors"
    found = set()
    for first, last in ((0, 0), (1, 0), (0, 1)):
        weights.write_bytes(bytes([first]) + bytes(3 << 20) + bytes([last]))
        found.add(fingerprint_model(str(tmp_path)))
    assert len(found) == 3
    assert fingerprint_model("random:nano") is None
