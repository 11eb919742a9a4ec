"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from mixtral.whole_file import whole_file, write_whole


def test_text_replaces_what_was_there_and_keeps_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_whole(path, "new\r\n\u00b1\n")
    assert path.read_bytes() == "new\r\n\u00b1\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), whole_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
