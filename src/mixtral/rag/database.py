"""The SQLite file of a collection: its tables, its connections, its errors.

Two connections: one writes, one reads. In WAL mode a reader sees the last whole transaction and
waits for nobody, in this process or another, and opening a file that has its tables only reads;
writers of several processes take turns, each waiting up to ``_WAIT_S``. ``synchronous=FULL`` makes
a commit wait until the disk has it, so a document that was reported as added outlives a power cut,
too; that costs one fsync a document, little beside its embedding. (https://www.sqlite.org/wal.html;
WAL does not work on network disks.)

Words are searched by SQLite's own BM25 (FTS5, https://www.sqlite.org/fts5.html, k1 = 1.2, b = 0.75)
rather than by an index in memory: it changes in the transaction of its document, so it is never
behind, it costs nothing to open, and one new document costs one new document.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mixtral.errors import ConfigError, UnsupportedError

FILE_NAME = "collection.sqlite"
_VERSION = 1
_WAIT_S = 30.0
"""Longer than any commit takes; only another process's ``reindex`` is longer."""
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, title TEXT NOT NULL, num_pages INTEGER,
    num_chunks INTEGER NOT NULL, num_characters INTEGER NOT NULL, sha256 TEXT NOT NULL,
    content_key TEXT NOT NULL, added_at REAL NOT NULL, is_code INTEGER NOT NULL,
    sections TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document_id TEXT NOT NULL, start INTEGER NOT NULL,
    "end" INTEGER NOT NULL, page INTEGER, vector BLOB NOT NULL, heading TEXT, text TEXT NOT NULL);
CREATE INDEX chunks_of_document ON chunks (document_id);
"""


class Database:
    """Both connections to one file.

    Args:
        folder: Where the file is.
        create: Whether to make it where there is none.
        on_new: Puts the first facts into a new file, in the transaction that makes its tables.

    Raises:
        ConfigError: There is no collection, or the file is damaged or of another version.
        UnsupportedError: Python's SQLite lacks FTS5.
    """

    def __init__(
        self, folder: Path, *, create: bool, on_new: Callable[[sqlite3.Connection], None]
    ) -> None:
        self.path = folder / FILE_NAME
        """The file."""
        if not create and not self.path.is_file():
            raise ConfigError(
                f"{folder} has no collection; add documents first (mixtral rag add), or name the "
                "folder of one."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made: {error.strerror or error}.") from error
        self._lock = threading.Lock()
        with self.errors():
            self._writer = self._connect()
            try:
                self._prepare(on_new)
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
            except BaseException:
                self._writer.close()
                raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction: all of it is kept, or nothing.

        Raises:
            ConfigError: Another process has been writing for too long, or the disk is full.
        """
        with self.errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a view of one moment; one thread at a time.

        Raises:
            ConfigError: The file is damaged, or was closed.
        """
        with self._lock, self.errors():
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say what SQLite's errors mean for the user."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _explained(error, self.path) from error

    def close(self) -> None:
        """Close both; what was committed stays."""
        with self._lock:
            self._reader.close()
            self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        options = ""
        folder = self.path.parent
        if not os.access(folder, os.W_OK) and not (folder / f"{FILE_NAME}-wal").exists():
            # Even to read, SQLite would make files beside a database in WAL mode.
            options = "?immutable=1"
        connection = sqlite3.connect(
            self.path.absolute().as_uri() + options,
            uri=True,
            timeout=_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _prepare(self, on_new: Callable[[sqlite3.Connection], None]) -> None:
        """Make the tables of a new file; two processes may try at once."""
        if self._version() == 0:
            self._begin_wal()
            with self.writing() as connection:
                if self._version() == 0:  # Another process may have been first.
                    for statement in _TABLES.split(";")[:-1]:
                        connection.execute(statement)
                    on_new(connection)
                    connection.execute(f"PRAGMA user_version={_VERSION}")
        if (version := self._version()) != _VERSION:
            raise ConfigError(
                f"{self.path} is of version {version}, and this version of mixtral knows "
                f"{_VERSION}; use the mixtral that made it, or add the documents again."
            )

    def _version(self) -> int:
        return int(self._writer.execute("PRAGMA user_version").fetchone()[0])

    def _begin_wal(self) -> None:
        # SQLite does not wait here by itself while another process makes the same file.
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def make_word_index(connection: sqlite3.Connection, *, stemming: bool) -> None:
    """Make an empty keyword index, in place of another.

    Raises:
        UnsupportedError: Python's SQLite lacks FTS5.
    """
    connection.execute("DROP TABLE IF EXISTS words")
    tokenizer = f"{'porter ' if stemming else ''}unicode61 remove_diacritics 2"
    try:
        connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(terms, tokenize='{tokenizer}')")
    except sqlite3.OperationalError as error:
        if "no such module" not in str(error):
            raise
        raise UnsupportedError(
            "this Python's SQLite has no FTS5, which finds words; use a Python from python.org, "
            "Debian, Homebrew or conda."
        ) from None


def _explained(error: sqlite3.DatabaseError, path: Path) -> ConfigError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return ConfigError(
            f"another process has been writing to {path.parent} for {_WAIT_S:.0f} s; wait until "
            "it ends, and try again."
        )
    if "full" in text:
        return ConfigError(f"the disk of {path} is full; free some space and try again.")
    if "closed database" in text:
        return ConfigError("the collection is closed; open it again.")
    if "readonly" in text:
        return ConfigError(f"{path.parent} can only be read; copy it to where you may write.")
    if "not a database" in text or "malformed" in text or "disk image" in text:
        return ConfigError(
            f"{path} is damaged or is no collection ({text}); remove it and add the documents "
            "again."
        )
    return ConfigError(f"{path} cannot be used: {text}.")
