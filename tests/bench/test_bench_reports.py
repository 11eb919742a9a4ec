"""What goes into a report, and where it goes: no key, no lost number."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixtral.bench import other_processes, results
from mixtral.bench.collect import collect
from mixtral.bench.moe import MoeOptions, measure_moe
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober
from mixtral.bench.results import describe_command
from mixtral.bench.serve_http import Target
from mixtral.bench.serve_measure import is_on_this_machine
from mixtral.bench.session import measure_steps
from mixtral.bench.table import step_table
from mixtral.cli.main import app
from mixtral.errors import EngineError
from tests.bench.bench_for_tests import needs_library, options
from tests.bench.serve_for_tests import FakeServer, running

SMALL = ("--model", "random:nano", "--layers", "1", "--threads", "1", "--repeats", "1")
SERVE = ("--no-probes", "--requests", "1", "--warmup", "0", "--new-tokens", "2")


def bench(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments], **options)


@pytest.mark.parametrize(
    "words",
    [
        ["--api-key", "sk-SECRET"],
        ["--api-key=sk-SECRET"],
        ["--api-key", "sk-SECRET with spaces"],
        ["--api-key=sk SECRET"],
        ["--server-options", "--api-key sk-SECRET --max-num-seqs 4"],
        ["--server-options", "--api-key=sk-SECRET --max-num-seqs 4"],
    ],
)
def test_a_key_is_not_in_the_report(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mixtral", "bench", *words, "--requests", "1"])
    command = describe_command()
    assert "SECRET" not in command
    assert "***" in command
    assert command.startswith("mixtral bench ")
    assert command.endswith(" --requests 1")


def test_the_key_of_a_server_may_stand_in_the_environment() -> None:
    with running(FakeServer()) as server:
        done = bench("serve", "--url", server.url, *SERVE, env={"MIXTRAL_API_KEY": "sk-SECRET"})
    assert done.exit_code == 0, done.stderr
    assert "Authorization: Bearer sk-SECRET" in server.heads[-1]
    assert "SECRET" not in done.stdout


def test_a_key_in_the_environment_does_not_hinder_a_server_of_our_own() -> None:
    arguments = ("--model", "no-such-model", *SERVE)
    done = bench("serve", *arguments, env={"MIXTRAL_API_KEY": "sk-SECRET"})
    assert done.exit_code == 2
    assert "no-such-model" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["decode", "--model", "no-such-model"], ["serve", "--url", "http://127.0.0.1:9"]]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    arguments: list[str], tmp_path: Path
) -> None:
    done = bench(*arguments, "--json", str(tmp_path))
    assert done.exit_code == 2
    assert f"--json is {tmp_path}, which is a folder; name a file." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_of_plots_that_is_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are not installed")
    file = tmp_path / "plots"
    file.touch()
    done = bench("serve", "--url", "http://127.0.0.1:9/v1", "--plot", str(file))
    assert done.exit_code == 2
    assert "--plot is" in done.stderr


def fail_to_write(path: Path, value: object) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_numbers_are_printed_even_if_they_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "write_json", fail_to_write)
    file = str(tmp_path / "report.json")
    sizes = ("--prompt-tokens", "4", "--new-tokens", "1")
    done = bench("decode", *SMALL, *sizes, "--json", file)
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["results"][0]["work"] == "decode"
    with running(FakeServer()) as server:
        done = bench("serve", "--url", server.url, *SERVE, "--json", file)
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["results"][0]["serve"]["succeeded"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts for each processor")
def test_only_processors_that_this_process_may_use_count_as_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1})
    stat = tmp_path / "stat"
    monkeypatch.setattr(other_processes, "_STAT", stat)

    def count(others: int, ours: int) -> None:
        ticks = {"cpu": others + ours, "cpu0": others, "cpu1": ours}
        lines = [f"{name} {number} 0 0 9 0 0 0 0 0 0\n" for name, number in ticks.items()]
        stat.write_text("".join(lines) + "intr 1\n")

    count(others=0, ours=0)
    watched = OtherProcesses()
    count(others=10**9, ours=0)
    assert watched.share() == 0.0
    count(others=0, ours=10**9)
    assert watched.share() == 1.0
    stat.write_text("cpu 1 0 0 9 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0\n")
    assert watched.share() is None


def own_address() -> str:
    """The address that this machine would be reached at; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its own loop")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["127.0.0.9", "localhost", "0.0.0.0", "[::]", "[::1]"])
def test_loops_and_every_address_are_this_machine(host: str) -> None:
    assert is_on_this_machine(Target.parse(f"http://{host}:8000/v1"))


def test_an_address_of_this_machine_is_this_machine() -> None:
    assert is_on_this_machine(Target.parse(f"http://{own_address()}:8000/v1"))


def test_other_hosts_are_not_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_on_this_machine(Target.parse("http://192.0.2.1:8000/v1"))

    def find_nobody(*arguments: object, **options: object) -> None:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", find_nobody)
    assert not is_on_this_machine(Target.parse("http://nobody.invalid:8000/v1"))


# ---- Runs that do not come to their end --------------------------------------------------------


def stop_after(count: int, error: BaseException) -> Callable[[], None]:
    """Return what raises at the call after ``count`` others."""
    calls = iter(range(count))

    def stop() -> None:
        if next(calls, None) is None:
            raise error

    return stop


@pytest.mark.parametrize(
    ("error", "is_cut", "failure"),
    [(KeyboardInterrupt(), True, None), (EngineError("it broke."), False, "it broke.")],
)
def test_sizes_that_were_whole_are_reported_when_a_later_one_is_not(
    error: BaseException, is_cut: bool, failure: str | None, prober: Prober
) -> None:
    wanted = options("decode", batches=(1, 2))
    stop = stop_after(wanted.repeats, error)
    report = measure_steps(wanted, prober=prober, on_repeat=stop)
    assert [result.batch for result in report.results] == [1]
    values = report.to_json()
    assert (values["is_cut"], values["failure"]) == (is_cut, failure)
    assert step_table(report).row_count == 1


@needs_library
def test_experts_that_were_measured_are_reported_after_ctrl_c(prober: Prober) -> None:
    model = ModelOptions(name="random:nano", layers=1, threads=1, quantization="int4")
    wanted = MoeOptions(model=model, tokens=(1, 2), repeats=2)
    report = measure_moe(wanted, prober=prober, on_repeat=stop_after(2, KeyboardInterrupt()))
    assert [result.prompt_tokens for result in report.results] == [1]
    assert report.is_cut


def test_nothing_measured_is_no_report() -> None:
    def measure() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(measure() for _ in range(2))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped with Ctrl-C"),
        (EngineError("it broke."), 1, "error: the report is not whole"),
    ],
)
def test_a_partial_report_is_printed_with_its_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = Prober.measure, iter(range(4))

    def measure_at_first(prober: Prober) -> Any:
        if next(calls, None) is None:
            raise error
        return measure(prober)

    monkeypatch.setattr(Prober, "measure", measure_at_first)
    sizes = ("--prompt-tokens", "4", "--new-tokens", "1", "--batch", "1,2")
    done = bench("decode", *SMALL, *sizes)
    assert done.exit_code == status
    report = json.loads(done.stdout.splitlines()[-1])
    assert [result["batch"] for result in report["results"]] == [1]
    assert message in done.stderr


def test_named_weights_take_a_seed_for_their_prompts() -> None:
    named = ModelOptions(name="nano", seed=3, threads=1)
    _, format_name = named.load(named.find())
    assert format_name == "bfloat16"
