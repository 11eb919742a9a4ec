"""The app: quick to start, one line per failure, the right exit status."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mixtral
from mixtral.cli import info
from mixtral.cli.main import COMMANDS
from mixtral.errors import CheckpointError, EngineDead
from tests.cli.conftest import Run

HEAVY = ("torch", "transformers", "mistral_common", "numpy", "prompt_toolkit", "matplotlib")


def run_process(code: str) -> "subprocess.CompletedProcess[str]":
    source = str(Path(mixtral.__file__).parents[1])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["info", "8x22b"], ["--version"], *([name, "--help"] for name in COMMANDS)],
)
def test_help_and_info_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom mixtral.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as error:\n    assert not error.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    process = run_process(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "[]"


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"mixtral {mixtral.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_what_each_command_says_of_itself(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert COMMANDS[name] in " ".join(result.stdout.split())
    assert "Example" in result.stdout or name == "bench"


def test_no_command_shows_the_help_and_fails(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "generate" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["inf"], "Did you mean 'info'?"),
        (["info"], "Missing argument"),
        (["info", "8x7b", "--bogus"], "--bogus"),
        (["generate", "--top-p", "abc", "hi"], "--top-p"),
    ],
)
def test_usage_error_is_one_line(run: Run, arguments: list[str], part: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CheckpointError("cut\nin two."), 2, "error: cut in two.\n"),
        (EngineDead("stopped."), 1, "error: stopped.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: x: No space left"),
        (MemoryError(), 1, "error: there is not enough memory"),
        (TypeError("oops"), 1, "error: TypeError: oops. This is a bug"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
    ],
)
def test_failure_ends_as_one_line_and_a_status(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(info, "find_model", fail)
    result = run("info", "8x7b")
    assert result.exit_code == status
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == (1 if message else 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_under_stdout_is_one_line() -> None:
    code = (
        "import sys\nsys.stdout = open('/dev/full', 'w')\n"
        "from mixtral.cli.main import main\nmain(['info', '8x7b'])"
    )
    process = run_process(code)
    assert process.returncode == 1
    assert process.stderr == "error: No space left on device.\n"
