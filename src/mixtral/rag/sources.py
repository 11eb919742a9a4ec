"""Which files and pages the user means: paths, folders, globs and URLs to a list of sources.

A folder is walked without hidden files and without the folders that tools fill
(``node_modules``); files of kinds that are not read are skipped, and everything skipped is said. A
symbolic link in a folder is followed only to a file inside that folder: a link to ``/etc`` in a
downloaded archive brings nothing in. What the user names is taken at the user's word: a hidden
file, a link, a file without an ending that turns out to be text.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.rag.documents import Kind, kind_of
from mixtral.rag.limits import DocumentRefused, Limits

_TOOL_FOLDERS = frozenset(("node_modules", "__pycache__", "site-packages"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A document that is to be read, or was passed over."""

    name: str
    """Its absolute path or its URL."""
    kind: Kind | None
    """How to read it; None for a URL, whose answer says it."""
    skipped: str | None = None
    """Why it is not read."""

    @property
    def is_url(self) -> bool:
        """Whether it must be downloaded."""
        return is_url(self.name)


def is_url(text: str) -> bool:
    """Return whether a text means a page rather than a path."""
    return text.lower().startswith(("http://", "https://"))


def find_sources(
    paths: Sequence[str | Path], *, limits: Limits, allow_urls: bool = False
) -> list[Source]:
    """Return what the paths mean, each source once, in the order of the paths and then of names.

    Args:
        paths: Files, folders, globs (``docs/**/*.md``) and URLs.
        limits: How many files there may be.
        allow_urls: Whether URLs may be among them.

    Raises:
        ConfigError: A path does not exist, a glob matches nothing, or there are too many files.
        UnsupportedError: A URL, and they are not allowed.
    """
    found: dict[str, Source] = {}
    for path in paths:
        for source in _find(path, allow_urls=allow_urls):
            found.setdefault(source.name, source)
            if len(found) > limits.max_files:
                raise ConfigError(
                    f"more than {limits.max_files:,} files were found in {path}; add fewer at a "
                    "time, or raise max_files."
                )
    return list(found.values())


def read_file(path: Path, limits: Limits) -> bytes:
    """Return the bytes of a file, no more than the limit.

    Raises:
        DocumentRefused: It is too large, gone, not a regular file, or not ours to read.
    """
    try:
        if not path.is_file():  # Opening a pipe would wait for its other end.
            raise DocumentRefused("it is not a regular file, or gone.")
        with path.open("rb") as file:
            data = file.read(limits.max_file_bytes + 1)
    except OSError as error:
        raise DocumentRefused(f"it cannot be read: {error.strerror or error}.") from None
    if len(data) > limits.max_file_bytes:
        raise DocumentRefused(
            f"it has more than {limits.max_file_bytes:,} bytes, the limit max_file_bytes."
        )
    return data


def check_upload_name(name: str) -> None:
    """Check that the name of an upload is the name of a file and nothing more.

    Raises:
        DocumentRefused: It has separators or control characters, is too long, or is a URL.
    """
    if not name.strip() or name in (".", "..") or len(name.encode("utf-8", "replace")) > 255:
        raise DocumentRefused("its name is empty or longer than 255 bytes; give it another.")
    if any(char in name for char in "/\\:") or not name.isprintable():
        raise DocumentRefused(
            "its name has a path, a colon or a control character in it; send the name alone."
        )


def _find(path: str | Path, *, allow_urls: bool) -> Iterator[Source]:
    text = os.fspath(path)
    if isinstance(path, str) and is_url(path):
        if not allow_urls:
            raise UnsupportedError(
                f"{path} is a URL, and nothing is downloaded unless allowed: set allow_urls, "
                "or --allow-urls."
            )
        bad_name = _bad_name(path)
        yield _skip(path, bad_name) if bad_name else Source(name=path, kind=None)
        return
    if not text or "\0" in text:
        raise ConfigError(f"{text!r} is not a path; name a file, a folder or a glob.")
    full = Path(os.path.abspath(os.path.expanduser(text)))
    if full.is_dir():
        yield from _walk(full)
    elif full.exists() or full.is_symlink():
        yield _named(full)
    elif glob.has_magic(text):
        matches = sorted(glob.glob(str(full), recursive=True))
        if not matches:
            raise ConfigError(f"no file matches {text}; check the pattern.")
        for match in map(Path, matches):
            yield from _walk(match) if match.is_dir() else [_named(match)]
    else:
        raise ConfigError(f"{text} does not exist; name a file, a folder or a glob.")


def _named(path: Path) -> Source:
    if bad_name := _bad_name(path):
        return _skip(path, bad_name)
    return Source(name=str(path), kind=kind_of(path.name) or "text")


def _walk(folder: Path) -> Iterator[Source]:
    root = folder.resolve()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            yield _skip(current, f"it cannot be listed: {_what(error)}")
            continue
        below = []
        for entry in entries:
            path = Path(entry.path)
            try:
                reason = _reason_to_skip(entry, root)
            except (OSError, RuntimeError) as error:  # A link to itself, say.
                reason = f"it cannot be looked at: {_what(error)}"
            if reason is not None:
                yield _skip(path, reason)
            elif entry.is_dir(follow_symlinks=False):
                below.append(path)
            else:
                yield Source(name=str(path), kind=kind_of(path.name))
        pending.extend(reversed(below))


def _reason_to_skip(entry: "os.DirEntry[str]", root: Path) -> str | None:
    path = Path(entry.path)
    if bad_name := _bad_name(path):
        return bad_name
    if entry.name.startswith("."):
        return "it is hidden"
    if entry.is_symlink():
        if entry.is_dir():
            return "it is a link to a folder"
        # Also where the link leads nowhere.
        if not path.resolve().is_relative_to(root):
            return "it is a link out of the folder"
    if entry.is_dir(follow_symlinks=False):
        return "tools fill this folder" if entry.name in _TOOL_FOLDERS else None
    if not entry.is_file():
        return "it is not a regular file"
    if kind_of(entry.name) is None:
        return "files of this kind are not read"
    return None


def _what(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _skip(path: str | Path, reason: str) -> Source:
    name = str(path).encode("utf-8", "replace").decode()
    return Source(name=name, kind=None, skipped=f"skipped: {reason}.")


def _bad_name(path: str | Path) -> str | None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; give it another"
    return None
