"""What goes wrong around the command line: streams, signals, odd bytes, odd files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from mixtral.cli.main import main; main(sys.argv[1:])"
)


def start(*args: object, shell: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    if shell:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def test_closed_standard_input_is_an_empty_prompt(tiny: Path) -> None:
    process = start("generate", "-m", tiny, shell="<&-")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == b"error: the prompt is empty; give some text.\n"


def test_closed_standard_output_is_said() -> None:
    process = start("info", "8x7b", shell=">&-")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == b"error: standard output is closed; results need a place to go.\n"


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_no_half_written_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    process = start(
        *("convert", "random:nano", tmp_path / "big", "--layers", "150", "--format", "hf")
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_are_not_utf8_are_refused(run: Run, tiny: Path) -> None:
    result = run("generate", "-m", tiny, "a\udcff")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: the prompt is not UTF-8 text, from character 2 on; convert it first.\n"
    )


def test_chat_goes_on_after_a_line_that_is_not_utf8(run: Run, tiny: Path) -> None:
    result = run("chat", "-m", tiny, input=b"a\xff\n/tokens\n")
    assert result.exit_code == 0
    assert "error: your line is not UTF-8 text" in result.stderr
    assert "0 of 256 tokens" in result.stdout


def test_chat_survives_every_wrong_file(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b"[" + b"1," * 6_000_000 + b"1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "half.json").write_text('[{"role": "user", "content": "\\ud800"}]')
    lines = [f"/load {tmp_path / name}.json" for name in ("large", "deep", "half")]
    lines += ["/load a\0b", "/load ~no-such-user/x", "/load .", "/save .", "/save ~no-such-user/x"]
    lines += ["/params temperature=" + "[" * 100_000, "/tokens"]
    result = run("chat", "-m", tiny, input="\n".join(lines))
    assert result.exit_code == 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(lines) - 1
    assert "large.json is longer than 10 MB" in errors[0]
    assert all(len(line) < 1100 for line in errors)
    assert "0 of 256 tokens" in result.stdout


def test_json_spells_out_what_standard_output_cannot_hold(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    target = tmp_path / "a\udcff"
    result = run("convert", tiny, target, "--format", "hf", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["target"] == str(target)


@pytest.mark.parametrize("model", ["", "~no-such-user/x", "x" * 5000, "a\0b"])
def test_impossible_model_name_is_bad_input(run: Run, model: str) -> None:
    result = run("generate", "-m", model, "hi")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "bug" not in result.stderr
