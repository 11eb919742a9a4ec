"""Hashes of files: what changes them, and what does not."""

from pathlib import Path

import pytest

from mixtral import fingerprint as module
from mixtral.fingerprint import fingerprint, hash_file


def test_fingerprint_of_a_large_file_sees_its_size_and_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 16)
    monkeypatch.setattr(module, "_NUM_PIECES", 4)
    path = tmp_path / "large"
    prints = set()
    for content in (b"a" * 1000, b"b" + b"a" * 999, b"a" * 999 + b"b", b"a" * 999):
        path.write_bytes(content)
        prints.add(fingerprint(path))
    assert len(prints) == 4


def test_fingerprint_of_a_folder_follows_its_weights_and_not_its_place_or_its_description(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")
    (second / "README.md").write_text("A model.")
    (second / ".hidden").write_text("x")
    assert fingerprint(first) == fingerprint(second)
    (second / "config.json").write_text("[]")
    assert fingerprint(first) != fingerprint(second)


def test_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert hash_file(path).startswith(
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852"
    )
