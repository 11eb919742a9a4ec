"""API keys: who is let in, and how the file of keys is read again."""

import hashlib
import hmac
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError
from mixtral.server import keys as keys_module
from mixtral.server.keys import ApiKey, InvalidKey, KeyRing

DIGEST = hashlib.sha256(b"bobs secret".replace(b" ", b"-")).hexdigest()
FILE = f"""
[keys]
alice = "alices-secret"
bob = "sha256:{DIGEST}"

[keys.batch]
key = "batchs-secret"
priority = -1
requests_per_minute = 600
tokens_per_minute = 100_000
max_concurrent = 8
max_queued = 2
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write(path, FILE)
    return path


def write(path: Path, text: str) -> None:
    """Replace the file, with a time of change that is new even on a coarse file system."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    path.chmod(0o600)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def name_of(ring: KeyRing, secret: str) -> str | None:
    key = ring.authenticate(f"Bearer {secret}")
    return None if key is None else key.name


def test_plain_and_hashed_keys_are_known_by_name(file: Path) -> None:
    ring = KeyRing(file, ["given", "sha256:" + hashlib.sha256(b"hashed").hexdigest().upper()])
    assert name_of(ring, "alices-secret") == "alice"
    assert name_of(ring, "bobs-secret") == "bob"
    assert name_of(ring, "given") == "api-key-1"
    assert name_of(ring, "hashed") == "api-key-2"
    assert ring.names == ("api-key-1", "api-key-2", "alice", "bob", "batch")


def test_limits_stand_beside_the_key(file: Path) -> None:
    assert KeyRing(file).authenticate("bearer  batchs-secret ") == ApiKey(
        name="batch",
        priority=-1,
        requests_per_minute=600,
        tokens_per_minute=100_000,
        max_concurrent=8,
        max_queued=2,
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "there is no API key; send the header Authorization: Bearer KEY."),
        ("", "there is no API key"),
        ("Bearer", "there is no API key"),
        ("Bearer  ", "there is no API key"),
        ("Basic alices-secret", "there is no API key"),
        ("Bearer alices-secre", "the API key is wrong"),
        ("Bearer alices-secret2", "the API key is wrong"),
        ("Bearer \xff\u20ac\udc80", "the API key is wrong"),
        (f"Bearer sha256:{DIGEST}", "the API key is wrong"),
        (f"Bearer {DIGEST}", "the API key is wrong"),
        ("Bearer " + "x" * 60_000, "the API key is wrong"),
    ],
)
def test_anything_else_is_no_key(file: Path, header: str | None, message: str) -> None:
    with pytest.raises(InvalidKey, match=message):
        KeyRing(file).authenticate(header)


def test_without_keys_everybody_may_ask() -> None:
    ring = KeyRing()
    assert ring.is_open
    assert ring.authenticate("Bearer whatever clients send") is None


def test_no_secret_is_kept(file: Path) -> None:
    state = repr(vars(KeyRing(file, ["hush"])))
    assert not [secret for secret in ("alices-", "bobs-", "batchs-", "hush") if secret in state]


def test_digests_are_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return original(left, right)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", compare)
    ring = KeyRing(file)
    assert name_of(ring, "alices-secret") == "alice"
    digest = hashlib.sha256(b"alices-secret").digest()
    assert compared == [(digest, digest)]
    # What the look-up compares is drawn anew by each process.
    assert set(vars(ring)["_by_tag"]).isdisjoint(vars(KeyRing(file))["_by_tag"])


def test_file_is_read_again_when_it_has_changed_and_looked_at_once_a_second(file: Path) -> None:
    clock = Clock()
    ring = KeyRing(file, clock=clock)
    write(file, '[keys]\ncarol = "carols-secret"')
    clock.now = 0.9
    assert name_of(ring, "alices-secret") == "alice"
    clock.now = 1.0
    assert name_of(ring, "carols-secret") == "carol"
    with pytest.raises(InvalidKey):
        ring.authenticate("Bearer alices-secret")


@pytest.mark.parametrize("broken", ["[keys", "[keys]\n", '[keys]\nalice = "a b"', "", None])
def test_broken_file_keeps_the_old_keys_and_is_logged_once(
    file: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    clock = Clock()
    ring = KeyRing(file, clock=clock)
    if broken is None:
        file.unlink()
    else:
        write(file, broken)
    with caplog.at_level(logging.ERROR, "mixtral"):
        for second in range(1, 4):
            clock.now = float(second)
            assert name_of(ring, "alices-secret") == "alice"
    assert len(caplog.records) == 1
    assert "the API keys stay as they were" in caplog.text
    write(file, FILE.replace("alices-secret", "a-new-secret"))
    clock.now = 5.0
    assert name_of(ring, "a-new-secret") == "alice"


def test_reload_reads_at_once(file: Path) -> None:
    ring = KeyRing(file, clock=Clock())
    write(file, '[keys]\ncarol = "carols-secret"')
    ring.reload()
    assert name_of(ring, "carols-secret") == "carol"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[keys]", "has no key; write NAME"),
        ("", "has no key"),
        ("keys = 3", "has no key"),
        ('[key]\na = "b"', "has the unknown table key; keys stand under"),
        ('[keys]\n"a b" = "c"', "the key name 'a b' is not allowed"),
        ("[keys]\na = 3", "the key a has no usable text"),
        ('[keys]\na = "hush hush"', "the key a has no usable text"),
        ('[keys]\na = "sha256:hush"', "the digest of the key a is wrong"),
        ("[keys.a]\npriority = 1", "the key a has no usable text"),
        ('[keys.a]\nkey = "hush"\nspeed = 1', "the key a has the unknown field speed; known are"),
        ('[keys.a]\nkey = "hush"\nname = "b"', "unknown field name"),
        ('[keys.a]\nkey = "hush"\npriority = 101', "priority of a is 101; it must be from -100"),
        ('[keys.a]\nkey = "hush"\nmax_concurrent = 0', "max_concurrent of a is 0; it must be"),
        ('[keys.a]\nkey = "hush"\nmax_concurrent = "3"', "it must be a whole number."),
        ('[keys]\na = "hush"\nb = "hush"', "the keys a and b are the same; give each its own."),
    ],
)
def test_wrong_file_is_told_without_the_secret(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.toml"
    write(path, text)
    with pytest.raises(ConfigError) as caught:
        KeyRing(path)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        KeyRing(tmp_path / "keys.toml")


def test_wrong_key_of_the_command_line_is_told() -> None:
    with pytest.raises(ConfigError, match="the key api-key-1 has no usable text"):
        KeyRing(None, ["two words"])


@pytest.mark.skipif(os.name != "posix", reason="this system has no permission bits")
@pytest.mark.parametrize(("mode", "count"), [(0o640, 0), (0o644, 1)])
def test_file_that_everybody_can_read_is_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture, mode: int, count: int
) -> None:
    file.chmod(mode)
    with caplog.at_level(logging.WARNING, "mixtral"):
        KeyRing(file)
    assert len(caplog.records) == count


def test_names_are_fit_for_logs_and_metrics() -> None:
    wrong: list[Any] = ["", "a b", "a\nb", 'a"b', "x" * 65, "\u00e9"]
    for name in wrong:
        with pytest.raises(ConfigError, match="is not allowed"):
            ApiKey(name=name)
