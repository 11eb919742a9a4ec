"""Texts to measure on, from files and folders: one document per text file or JSON line.

| name ends with | documents |
|---|---|
| .jsonl, .jsonl.gz | the field ``text`` of each line |
| anything else, .gz or not | the whole file, UTF-8 |

In a folder, files that end with .txt or .jsonl are read, with or without .gz, folders in it
included, in the order of their names. Line ends stay as they are.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtral.errors import ConfigError

_IN_FOLDERS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text that belongs together."""

    name: str
    """File, and the line where a file holds several."""
    text: str
    """Its text, not empty."""


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Read every document of files and folders.

    Raises:
        ConfigError: A path is not there, a folder has no text, or a file is empty, damaged, no
            UTF-8, or has a line without a text.
    """
    documents = []
    for path in paths:
        for file in _files(path):
            documents += _read(file)
    return documents


def hash_documents(documents: Sequence[Document]) -> str:
    """Return the sha256 of the texts, whatever their files are called; 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for document in documents:
        content = document.text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text; JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(_IN_FOLDERS))
        if not files:
            raise ConfigError(
                f"{path} has no file that ends with {', '.join(_IN_FOLDERS)}; name another folder."
            )
        return files
    if not path.exists():
        raise ConfigError(f"{path} is not there; name a file or a folder of texts.")
    return [path]


def _read(file: Path) -> list[Document]:
    try:
        content = file.read_bytes()
        if file.name.endswith(".gz"):
            content = gzip.decompress(content)
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text, from byte {error.start} on; convert it first."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{file} is no whole gzip file: {error}. Fetch it again.") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from error
    if not text.strip():
        raise ConfigError(f"{file} holds no text; there is nothing to measure on.")
    if not file.name.removesuffix(".gz").endswith(".jsonl"):
        return [Document(name=str(file), text=text)]
    lines = enumerate(text.split("\n"), start=1)
    return [_document(file, number, line) for number, line in lines if line.strip()]


def _document(file: Path, number: int, line: str) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}, line {number} is no JSON: {error}.") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f'{file}, line {number} has no text; each line must be {{"text": "..."}}.'
        )
    if not is_unicode(text):
        raise ConfigError(
            f"{file}, line {number} has half of a surrogate pair, which is no character; correct "
            "or remove the line."
        )
    return Document(name=f"{file}:{number}", text=text)
