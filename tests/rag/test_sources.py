"""Which files paths mean, what is passed over and why, and which names uploads may have."""

import os
from pathlib import Path

import pytest

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.rag.limits import DocumentRefused, Limits
from mixtral.rag.sources import Source, check_upload_name, find_sources, read_file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    for name in (
        "b.md",
        "a.txt",
        "photo.jpg",
        ".hidden.txt",
        ".git/config.txt",
        "sub/c.py",
        "sub/deeper/d.pdf",
        "node_modules/e.js",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return root


def find(*paths: str | Path, limits: Limits | None = None) -> list[Source]:
    return find_sources(paths, limits=limits or Limits())


def taken(sources: list[Source], root: Path) -> list[str]:
    return [os.path.relpath(s.name, root) for s in sources if s.skipped is None]


def skipped(sources: list[Source], root: Path) -> dict[str, str]:
    return {os.path.relpath(s.name, root): s.skipped for s in sources if s.skipped is not None}


def test_folder_gives_its_documents_and_says_what_it_skips(tree: Path) -> None:
    found = find(tree)
    assert taken(found, tree) == ["a.txt", "b.md", "sub/c.py", "sub/deeper/d.pdf"]
    assert [s.kind for s in found if s.skipped is None] == ["text", "markdown", "code", "pdf"]
    assert skipped(found, tree) == {
        ".git": "skipped: it is hidden.",
        ".hidden.txt": "skipped: it is hidden.",
        "node_modules": "skipped: tools fill this folder.",
        "photo.jpg": "skipped: files of this kind are not read.",
    }


def test_named_file_is_taken_whatever_its_name(tree: Path) -> None:
    found = find(tree / ".hidden.txt", str(tree / "photo.jpg"))
    assert taken(found, tree) == [".hidden.txt", "photo.jpg"]
    assert [s.kind for s in found] == ["text", "text"]


def test_glob_gives_what_matches(tree: Path) -> None:
    assert taken(find(f"{tree}/*.md", f"{tree}/**/*.py"), tree) == ["b.md", "sub/c.py"]
    assert taken(find(f"{tree}/s*"), tree) == ["sub/c.py", "sub/deeper/d.pdf"]
    (tree / "odd[1].txt").write_text("text")
    assert taken(find(tree / "odd[1].txt"), tree) == ["odd[1].txt"]


def test_source_named_twice_comes_once_by_its_absolute_path(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    found = find("a.txt", tree / "a.txt", "sub/../a.txt", ".")
    assert [s.name for s in found if s.name.endswith("a.txt")] == [str(tree / "a.txt")]


def test_links_out_of_the_folder_are_not_followed(tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (tmp_path / "outside").mkdir()
    (tree / "out.txt").symlink_to(secret)
    (tree / "up.txt").symlink_to("../secret.txt")
    (tree / "folder").symlink_to(tmp_path / "outside")
    (tree / "in.txt").symlink_to("a.txt")
    (tree / "loop").symlink_to(".")
    (tree / "nowhere.txt").symlink_to("gone.txt")
    found = find(tree)
    assert taken(found, tree) == ["a.txt", "b.md", "in.txt", "sub/c.py", "sub/deeper/d.pdf"]
    reasons = skipped(found, tree)
    assert reasons["out.txt"] == reasons["up.txt"] == "skipped: it is a link out of the folder."
    assert reasons["folder"] == reasons["loop"] == "skipped: it is a link to a folder."
    assert "nowhere.txt" in reasons


def test_link_to_itself_is_skipped_and_others_are_taken(tree: Path) -> None:
    before = taken(find(tree), tree)
    (tree / "self.txt").symlink_to("self.txt")
    found = find(tree)
    assert taken(found, tree) == before
    assert skipped(found, tree)["self.txt"].startswith("skipped: it cannot be looked at: ")


def test_pipe_is_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "pipe.txt")
    assert skipped(find(tree), tree)["pipe.txt"] == "skipped: it is not a regular file."
    with pytest.raises(DocumentRefused, match="not a regular file"):
        read_file(tree / "pipe.txt", Limits())


def test_name_that_is_not_unicode_is_refused_and_not_a_crash(tree: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    (reason,) = [s.skipped for s in find(tree) if s.skipped and "bad" in s.name]
    assert reason is not None
    assert "not valid UTF-8" in reason


def test_address_that_is_not_unicode_is_skipped() -> None:
    (source,) = find_sources(["http://h/\udcff"], limits=Limits(), allow_urls=True)
    assert source.name == "http://h/?"
    assert source.skipped is not None
    assert "not valid UTF-8" in source.skipped


@pytest.mark.parametrize("path", ["gone.txt", "gone/", "no*match.md", "", "a\0b"])
def test_path_that_means_nothing_is_an_error(path: str, tree: Path) -> None:
    with pytest.raises(ConfigError):
        find(f"{tree}/{path}" if path else path)


def test_more_files_than_the_limit_are_an_error(tree: Path) -> None:
    with pytest.raises(ConfigError, match="more than 3 files"):
        find(tree, limits=Limits(max_files=3))


@pytest.mark.parametrize("url", ["http://example.org/a", "HTTPS://example.org"])
def test_url_needs_permission(url: str) -> None:
    with pytest.raises(UnsupportedError, match="nothing is downloaded unless allowed"):
        find(url)
    (source,) = find_sources([url], limits=Limits(), allow_urls=True)
    assert (source.name, source.is_url) == (url, True)


def test_file_is_read_up_to_the_limit(tree: Path) -> None:
    limits = Limits(max_file_bytes=4)
    assert read_file(tree / "a.txt", limits) == b"text"
    (tree / "a.txt").write_text("texts")
    with pytest.raises(DocumentRefused, match="more than 4 bytes"):
        read_file(tree / "a.txt", limits)
    with pytest.raises(DocumentRefused, match="gone"):
        read_file(tree / "missing.txt", limits)


@pytest.mark.parametrize(
    "name",
    [
        "../a.txt",
        "/etc/passwd",
        "a/b.txt",
        "..\\a.txt",
        "C:a.txt",
        "..",
        ".",
        "",
        " ",
        "a\0.txt",
        "a\n.txt",
        "\x1b[31m.txt",
        "é" * 128,
        "http://x/a.txt",
    ],
)
def test_name_of_an_upload_is_a_name_and_not_a_path(name: str) -> None:
    with pytest.raises(DocumentRefused):
        check_upload_name(name)


@pytest.mark.parametrize("name", ["report.pdf", "über uns (2).docx", "..hidden", "東京.txt"])
def test_ordinary_names_of_uploads_are_taken(name: str) -> None:
    check_upload_name(name)
