"""Finding a browser, and what is said where there is none. These need no browser themselves."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import install

VENDOR = Path(__file__).parent / "vendor"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Programs on the PATH, as the test wants them."""
    found: dict[str, str] = {}
    monkeypatch.delenv(install.VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", found.get)
    return found


def test_a_browser_that_is_named_comes_before_those_on_the_path(
    programs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install.find_chromium() is None
    programs |= {"google-chrome": "/usr/bin/google-chrome", "/opt/own": "/opt/own"}
    assert install.find_chromium() == "/usr/bin/google-chrome"
    monkeypatch.setenv(install.VARIABLE, "/opt/own")
    assert install.find_chromium() == "/opt/own"
    monkeypatch.setenv(install.VARIABLE, "/opt/not-there")
    assert install.find_chromium() is None


@pytest.mark.parametrize(("user", "has_apt"), [(1000, True), (0, False)])
def test_who_cannot_install_is_told_what_to_do(
    programs: dict[str, str], monkeypatch: pytest.MonkeyPatch, user: int, has_apt: bool
) -> None:
    programs |= {"apt-get": "/usr/bin/apt-get"} if has_apt else {}
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("it installs"))
    with pytest.raises(SystemExit, match="sudo apt-get install chromium"):
        install.main()


def test_root_of_a_debian_gets_its_chromium(
    programs: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], **options: object) -> None:
        ran.append(command)
        if "install" in command:
            programs["chromium"] = "/usr/bin/chromium"

    programs["apt-get"] = "/usr/bin/apt-get"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", run)
    install.main()
    assert [command[:2] for command in ran] == [("apt-get", "update"), ("apt-get", "install")]
    assert capsys.readouterr().out == "Chromium: /usr/bin/chromium\n"
    install.main()
    assert len(ran) == 2  # it is there now


def test_the_vendored_file_is_the_one_that_its_page_names() -> None:
    page = (VENDOR / "README.md").read_text()
    found = re.search(r"sha256\s+([0-9a-f]{64})\s+axe\.min\.js", page)
    assert found is not None
    content = (VENDOR / "axe.min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == found[1]
    version = re.search(rb"axe v([0-9.]+)", content)
    assert version is not None
    assert f"`axe-core` {version[1].decode()}" in page
