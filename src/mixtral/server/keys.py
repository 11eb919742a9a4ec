"""API keys: who may ask, how much, and in which order.

Keys come from ``--api-key`` and from a TOML file of one line or one table per key:

    [keys]
    alice = "a long random text"
    bob = "sha256:5c2f..."            # printf %s "$KEY" | sha256sum

    [keys.batch-jobs]
    key = "sha256:77ab..."
    priority = -1                     # after everybody with a higher number; 0 by default
    requests_per_minute = 600
    tokens_per_minute = 100_000
    max_concurrent = 8                # more of them wait ...
    max_queued = 32                   # ... but not more than these

A key is kept as its SHA-256 only. It is found by the HMAC of that digest under a secret drawn when
the process starts, so what the time of a look-up tells is of no use; the digests are then compared
in constant time.

The file is read again when it has changed, which is looked at no more than once a second, and on
SIGHUP. A file that is wrong then changes nothing: the old keys stay, and the log says what is
wrong. At start it is an error.
"""

import dataclasses
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError, RequestError
from mixtral.server.settings import check_type

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[\x21-\x7e]+")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


class InvalidKey(RequestError):
    """The request has no API key, or a wrong one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """One key: its name, which is all that logs and metrics show, and its limits.

    Raises:
        ConfigError: A field has a wrong type or is outside its range.
    """

    name: str
    """Letters, digits, dot, dash and underscore; at most 64."""
    priority: int = 0
    """Requests with a higher number go first; -100 to 100."""
    requests_per_minute: int | None = None
    """Requests per minute; None for any number."""
    tokens_per_minute: int | None = None
    """Tokens of prompts and answers per minute; None for any number."""
    max_concurrent: int | None = None
    """Requests that run at the same time, others wait; None for any number."""
    max_queued: int = 64
    """Requests that may wait for that; more are refused."""

    def __post_init__(self) -> None:
        """Check the name and the ranges."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"the key name {self.name!r} is not allowed; it must have 1 to 64 of the "
                "characters A-Z a-z 0-9 . _ -"
            )
        for field in dataclasses.fields(self):
            if field.name == "name":
                continue
            value = check_type(
                f"{field.name} of {self.name}", getattr(self, field.name), field.type
            )
            low, high = _RANGES[field.name]
            if value is not None and not low <= value <= high:
                raise ConfigError(
                    f"{field.name} of {self.name} is {value}; it must be from {low} to {high}."
                )

    @property
    def is_limited(self) -> bool:
        """Whether anything but the priority sets it apart from a key without limits."""
        limits = (self.requests_per_minute, self.tokens_per_minute, self.max_concurrent)
        return limits != (None, None, None)


_RANGES = {
    "priority": (-100, 100),
    "requests_per_minute": (1, 1_000_000),
    "tokens_per_minute": (1, 1_000_000_000),
    "max_concurrent": (1, 100_000),
    "max_queued": (0, 100_000),
}


class KeyRing:
    """The keys that are valid now.

    Args:
        file: TOML file of keys; None for none.
        keys: More keys, each a secret or ``sha256:`` and its digest; they are called api-key-1,
            api-key-2, ... and have no limits.
        clock: Seconds that only grow.

    Raises:
        ConfigError: The file is not there, is wrong or has no key, or a key is wrong.
    """

    def __init__(
        self,
        file: Path | None = None,
        keys: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._clock = clock
        self._blinding = secrets.token_bytes(32)
        self._given = [
            (ApiKey(name=f"api-key-{number}"), _digest(f"api-key-{number}", key))
            for number, key in enumerate(keys, start=1)
        ]
        self._next_check = clock() + _CHECK_INTERVAL_S
        self._signature = _signature(file)
        self._by_tag = self._index(read_key_file(file) if file else [])
        if file is not None:
            _warn_if_readable_by_all(file)

    @property
    def is_open(self) -> bool:
        """Whether there are no keys, so that everybody may ask."""
        return not self._by_tag

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all keys."""
        return tuple(key.name for key, _ in self._by_tag.values())

    def authenticate(self, authorization: str | None) -> ApiKey | None:
        """Return the key that a request came with, or None where no keys are needed.

        Args:
            authorization: The value of the header of that name; None if there was none.

        Raises:
            InvalidKey: There is no key, or it is none of ours.
        """
        self._reload_if_changed()
        if self.is_open:
            return None
        scheme, _, secret = (authorization or "").strip().partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise InvalidKey("there is no API key; send the header Authorization: Bearer KEY.")
        digest = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
        found = self._by_tag.get(self._tag(digest))
        if found is None or not hmac.compare_digest(found[1], digest):
            raise InvalidKey("the API key is wrong; send one that this server knows.")
        return found[0]

    def reload(self) -> None:
        """Read the file again; where that fails, keep the keys and log why."""
        if self._file is None:
            return
        self._signature = _signature(self._file)
        try:
            self._by_tag = self._index(read_key_file(self._file))
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("read %d API keys from %s", len(self._by_tag), self._file)

    def _reload_if_changed(self) -> None:
        if self._file is None or (now := self._clock()) < self._next_check:
            return
        self._next_check = now + _CHECK_INTERVAL_S
        if _signature(self._file) != self._signature:
            self.reload()

    def _tag(self, digest: bytes) -> bytes:
        return hmac.digest(self._blinding, digest, "sha256")

    def _index(self, keys: Sequence[tuple[ApiKey, bytes]]) -> dict[bytes, tuple[ApiKey, bytes]]:
        by_tag: dict[bytes, tuple[ApiKey, bytes]] = {}
        for key, digest in (*self._given, *keys):
            other = by_tag.setdefault(self._tag(digest), (key, digest))[0]
            if other is not key:
                raise ConfigError(
                    f"the keys {other.name} and {key.name} are the same; give each its own."
                )
        return by_tag


def read_key_file(path: Path) -> list[tuple[ApiKey, bytes]]:
    """Return the keys of a TOML file, each with the SHA-256 of its secret.

    Raises:
        ConfigError: The file cannot be read, is wrong, or has no key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"api_keys_file is {path}, which does not exist.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The text of a TOML error may quote a character of the file, but no secret.
        raise ConfigError(f"api_keys_file {path} cannot be read as TOML: {error}.") from error
    if unknown := sorted(set(content) - {"keys"}):
        raise ConfigError(f"{path} has the unknown table {unknown[0]}; keys stand under [keys].")
    table = content.get("keys", {})
    if not isinstance(table, dict) or not table:
        raise ConfigError(f'{path} has no key; write NAME = "KEY" under [keys].')
    try:
        return [_read_key(name, entry) for name, entry in table.items()]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_key(name: str, entry: Any) -> tuple[ApiKey, bytes]:
    limits = dict(entry) if isinstance(entry, Mapping) else {"key": entry}
    secret = limits.pop("key", None)
    known = {field.name for field in dataclasses.fields(ApiKey)} - {"name"}
    if unknown := sorted(set(limits) - known):
        raise ConfigError(
            f"the key {name} has the unknown field {unknown[0]}; known are key, "
            f"{', '.join(sorted(known))}."
        )
    return ApiKey(name=name, **limits), _digest(name, secret)


def _digest(name: str, secret: Any) -> bytes:
    # No message here repeats the secret: messages end up in logs.
    if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
        raise ConfigError(
            f"the key {name} has no usable text; it must be printable ASCII without spaces, "
            "or sha256: and 64 hexadecimal digits."
        )
    if secret.lower().startswith("sha256:"):
        match = _DIGEST.fullmatch(secret)
        if match is None:
            raise ConfigError(
                f"the digest of the key {name} is wrong; it must be sha256: and 64 hexadecimal "
                "digits."
            )
        return bytes.fromhex(match[1])
    return hashlib.sha256(secret.encode("ascii")).digest()


def _signature(file: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced; None where it is not there."""
    if file is None:
        return None
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _warn_if_readable_by_all(file: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(os.stat(file).st_mode) & stat.S_IROTH:
        logger.warning("%s can be read by every user of this machine; chmod 640 it", file)
