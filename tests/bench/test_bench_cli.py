"""``mixtral bench`` as a user types it, and the scripts of benchmarks/."""

import functools
import gc
import importlib.util
import json
import subprocess
import sys
import time
import weakref
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mixtral.bench.probes import Prober
from mixtral.bench.steps import Workload
from mixtral.cli.main import app
from mixtral.config import ModelConfig
from mixtral.errors import EngineError
from mixtral.model_source import ModelSource
from tests.bench.bench_for_tests import needs_library

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bench(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


SMALL = ("--model", "random:nano", "--layers", "1", "--threads", "1", "--repeats", "1")


def last_line(done: Any) -> Any:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_last_line_of_stdout_is_the_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = bench("decode", *SMALL, "--new-tokens", "2", "--prompt-tokens", "4", "--json", str(file))
    report = last_line(done)
    assert report == json.loads(file.read_text())
    assert report["results"][0]["tokens_per_s"]["median"] > 0
    assert "random:nano, 1 layers" in done.stderr


@needs_library
def test_quantization_is_the_format_of_the_results() -> None:
    report = last_line(bench("moe", *SMALL, "--tokens", "8", "--quantization", "int4"))
    assert [result["format"] for result in report["results"]] == ["int4"]


@needs_library
def test_compare_prints_a_ratio_per_work_size_and_peer() -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    peers = ["transformers"] + ["llama.cpp"] * (find_spec("llama_cpp") is not None)
    sizes = ("--batch", "1,2", "--prompt-tokens", "16", "--new-tokens", "2")
    done = bench("compare", *SMALL, *sizes, "--quantization", "int4", "--peers", ",".join(peers))
    report = last_line(done)
    works = [("prefill", 1), ("decode", 1), ("decode", 2)]
    found = [(r["work"], r["batch"], r["peer"]) for r in report["ratios"]]
    assert found == [(*work, peer) for work in works for peer in peers]
    assert "gate passed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--model", "random:nano", "--batch", "1,x"], "batch is '1,x'"),
        (["decode", "--model", "random:nano", "--batch", "0"], "batch is 0"),
        (["prefill", "--model", "random:nano", "--compare", "vllm"], "compare has 'vllm'"),
        (["compare", "--model", "random:nano", "--peers", ""], "peers has ''"),
        (["compare", "--model", "random:nano", "--peer-format", "q4"], "peer_format is 'q4'"),
        (["prefill", "--model", "random:nano", "--prompt-tokens", "9999"], "8192"),
        (["prefill", "--model", "random:nano", "--quantization", "int5"], "quantization is 'int5'"),
        (["load", "--model", "random:nano"], "has no files"),
        (["load", "--quantization", "int5"], "quantization is 'int5'"),
        (["load", "--prompt-tokens", "100000"], "prompt_tokens is 100000; it must be at most"),
        (["prefill", "--model", "no-such-model"], "no-such-model"),
        (["prefill", "--repeats", "0"], "repeats is 0"),
        (["decode", "--threads", "0"], "threads is 0; it must be from 1 to"),
        (["load", "--threads", "1000"], "threads is 1000; it must be from 1 to"),
        (["moe", "--model", "random:nano", "--tokens", "8,"], "tokens is '8,'"),
        (["moe", "--model", "random:nano", "--dtype", "float32"], "float32"),
        (["moe", "--model", "random:7b"], "is dense"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1 or "reading the files" in done.stderr
    assert "Traceback" not in done.stderr


def test_gpu_script_without_cuda_is_one_line_and_status_2() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "CUDA" in done.stderr
    assert not done.stdout


SHORT = Workload(work="decode", batch=1, prompt_tokens=4, new_tokens=2)


def gpu_run(gpu: ModuleType, time_limit_s: float = 600.0) -> Any:
    config = ModelConfig.preset("nano").replace(
        num_hidden_layers=1, vocab_size=256, max_position_embeddings=600
    )
    return gpu.Run(
        source=ModelSource(name="random:tiny", config=config, folder=None),
        dtype="bfloat16",
        device=torch.device("cpu"),
        time_limit_s=time_limit_s,
        repeats=1,
    )


def test_gpu_script_measures_both_engines_and_frees_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    gpu = load_script("gpu")
    load_model, models = gpu.load_model, []

    def load_and_watch(*arguments: Any, **options: Any) -> Any:
        model = load_model(*arguments, **options)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(gpu, "load_model", load_and_watch)
    run = gpu_run(gpu)
    prober = Prober(read_bytes=1 << 20, matrix_size=64)
    subject, answer = gpu.measure_ours(run, prober)
    gc.collect()
    assert models[0]() is None
    gpu.measure_theirs(run, subject, answer, prober)
    report = gpu._report(run)
    assert [r["engine"] for r in report["results"]] == ["mixtral"] * 4 + ["transformers"] * 4
    assert len(report["ratios"]) == 4
    assert [load["engine"] for load in report["loads"]] == ["mixtral", "transformers"]
    assert "## GPU" in load_script("report").write_report({"gpu": report})


@pytest.mark.parametrize("kind", [EngineError, torch.OutOfMemoryError])
def test_gpu_script_writes_our_numbers_when_the_peer_fails(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    gpu = load_script("gpu")

    def fail(*arguments: object) -> None:
        raise kind("the engines disagree.")

    small = functools.partial(Prober, read_bytes=1 << 20, matrix_size=64)
    monkeypatch.setattr(gpu, "Prober", small)
    monkeypatch.setattr(gpu, "check_parity", lambda run: None)
    monkeypatch.setattr(gpu, "measure_theirs", fail)
    monkeypatch.setattr(gpu.Run, "workloads", lambda run: [SHORT])
    file = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--model", "random:nano", "--layers", "1", "--repeats", "1"]
    assert gpu.main([*arguments, "--json", str(file)]) == 1
    report = json.loads(file.read_text())
    assert [result["engine"] for result in report["results"]] == ["mixtral"]
    assert report["notes"]["skipped"] == ["transformers failed: the engines disagree."]
    assert json.loads(capsys.readouterr().out) == report


def test_gpu_script_says_what_the_time_did_not_allow() -> None:
    gpu = load_script("gpu")
    run = gpu_run(gpu, time_limit_s=0.0)
    run.begin = time.perf_counter() - 1
    gpu.measure_ours(run, Prober(read_bytes=1 << 20, matrix_size=64))
    assert len(run.skipped) == 4
    assert "the time is up" in run.skipped[0]
    assert not run.results


def test_report_has_its_numbers_from_the_json_and_marks_missed_goals(tmp_path: Path) -> None:
    report = load_script("report")
    results = tmp_path / "results"
    results.mkdir()
    for name, values in sample_results().items():
        (results / f"{name}.json").write_text(json.dumps(values))
    page = tmp_path / "README.md"
    assert report.main(["--results", str(results), "--output", str(page)]) == 0
    text = page.read_text()
    lines = text.splitlines()
    for line in (
        "| decode, batch 1, int4: weights read, of read bandwidth | 96.0% | >= 85% | >= 95% "
        "| met, a feat |",
        "| decode, batch 8, int4, against llama.cpp Q4_0 | 2.50x | >= 2.2x | >= 2.8x | met |",
        "| decode, batch 32, int4, against llama.cpp Q4_0 | 4.00x | >= 5x | >= 7x | **missed** |",
        "| decode, batch 1, int4, against llama.cpp Q4_0 | not measured | >= 1.25x | >= 1.5x | - |",
        "| loading int4 from the page cache: first token, prefill taken off | 0.50 s | <= 1 s "
        "| <= 0.3 s | met |",
        "| `mixtral --help` | 1.50 s | <= 1 s |  | **missed** |",
    ):
        assert line in lines
    assert "mixtral bench compare" in text
    assert "123.0 (100.0..150.0)" in text


def test_a_missed_goal_is_shown_with_its_cause() -> None:
    text = "decode, batch 32, int4, against llama.cpp Q4_0"
    page = load_script("report").write_report(sample_results(), {text: "It sleeps."})
    assert f"* Missed: {text}. It sleeps." in page.splitlines()
    met = "decode, batch 8, int4, against llama.cpp Q4_0"
    assert "It sleeps" not in load_script("report").write_report(
        sample_results(), {met: "It sleeps."}
    )


def test_every_goal_looks_into_a_file_that_some_part_writes() -> None:
    parts = set(load_script("run").PARTS)
    assert parts == set(load_script("report").NAMES) - {"gpu", "serve"}


def test_goals_are_not_judged_on_a_tiny_model() -> None:
    results = sample_results()
    for result in results["compare-int4"]["results"]:
        result["model"] = "random:nano"
    page = load_script("report").write_report(results)
    assert "| decode, batch 8, int4, against llama.cpp Q4_0 | not measured |" in page


def test_report_tells_machines_of_the_same_name_and_partial_runs_apart() -> None:
    results = sample_results()
    results["decode-int4"]["machine"] = results["decode-int4"]["machine"] | {
        "cpu_capability": "AVX512"
    }
    results["decode-int4"]["is_cut"] = True
    lines = load_script("report").write_report(results).splitlines()
    (decode,) = [line for line in lines if line.startswith("* **decode-int4**")]
    (load,) = [line for line in lines if line.startswith("* **load-int4**")]
    assert "a processor (AVX512), 2 cores" in decode
    assert "Stopped before its end." in decode
    assert "a processor, 2 cores" in load
    assert "Stopped" not in load


def test_committed_report_is_what_the_script_makes_of_the_results() -> None:
    report = load_script("report")
    results = report.read_results(ROOT / "benchmarks/results")
    page = report.write_report(results, report._read_causes())
    assert (ROOT / "benchmarks/README.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("place", "has_medians"), [("evaluation", False), ("paraphrase", False), ("eval_speed", True)]
)
def test_a_page_promises_medians_only_where_it_has_them(place: str, has_medians: bool) -> None:
    (wanted,) = [p for p in load_script("measured_parts").PLACES if p.script == place]
    file = ROOT / f"benchmarks/results/{place}.json"
    assert ("Medians" in wanted.write(json.loads(file.read_text()))) is has_medians


def test_report_without_results_is_status_2(tmp_path: Path) -> None:
    assert load_script("report").main(["--results", str(tmp_path)]) == 2


def sample_results() -> dict[str, Any]:
    spread = {"median": 123.0, "min": 100.0, "max": 150.0}
    head = {
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "memory_bytes": 24 << 30,
            "gpu": None,
            "os": "Linux",
            "python": "3.11",
            "torch": "2.13.0",
        },
        "commit": None,
        "date": "2026-11-21T00:00:00+00:00",
        "notes": {"repeats": 5},
    }
    step = {
        "work": "decode",
        "engine": "mixtral",
        "model": "random:8x7b",
        "layers": 2,
        "format": "int4",
        "batch": 1,
        "prompt_tokens": 32,
        "new_tokens": 32,
        "threads": 2,
        "tokens_per_s": spread,
        "step_ms": spread,
        "weight_bytes_per_step": 6_000_000_000,
        "bandwidth_fraction": 0.96,
        "peak_fraction": 0.1,
        "peak_rss_bytes": 7_000_000_000,
        "probes": {"read_gb_per_s": 50.0, "int8_gops": 2000.0, "bf16_gflops": 900.0},
    }
    load = {
        "checkpoint_bytes": 2_000_000_000,
        "page_cache": "warm",
        **dict.fromkeys(("read_s", "process_s", "construct_s", "first_token_s"), spread),
        "prefill_s": spread,
        "startup_s": spread | {"median": 0.5},
        "first_token_over_read": spread | {"median": 1.2},
        "peak_rss_over_checkpoint": 1.05,
    }

    def ratio(batch: int, median: float) -> dict[str, Any]:
        numbers = spread | {"median": median}
        values = {"work": "decode", "batch": batch, "prompt_tokens": 32, "tokens_per_s": numbers}
        return values | {"engine": "mixtral", "peer": "llama.cpp"}

    def run(command: str, **values: Any) -> dict[str, Any]:
        return head | {"command": command, "results": [], "ratios": []} | values

    return {
        "decode-int4": run("mixtral bench decode", results=[step]),
        "compare-int4": run(
            "mixtral bench compare", results=[step], ratios=[ratio(8, 2.5), ratio(32, 4.0)]
        ),
        "load-int4": run("mixtral bench load", results=[step | {"work": "load", "load": load}]),
        "startup": run(
            "run.py",
            startup=[{"command": "mixtral --help", "seconds": spread | {"median": 1.5}}],
        ),
    }
