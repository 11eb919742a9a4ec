"""``mixtral info``: numbers to the digit, and whether they fit."""

import json
from pathlib import Path

import pytest

from mixtral import ModelConfig
from mixtral.checkpoint import quantize_checkpoint
from mixtral.cli import info
from mixtral.quantization import RECIPES
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("model", "total", "active", "kv", "context"),
    [
        ("8x7b", 46_702_792_704, 12_879_925_248, 131_072, 32_768),
        ("8x22b", 140_630_071_296, 39_161_468_928, 229_376, 65_536),
        ("7b", 7_241_732_096, 7_241_732_096, 131_072, 32_768),
    ],
)
def test_numbers_of_the_published_models(
    run: Run, model: str, total: int, active: int, kv: int, context: int
) -> None:
    result = run("info", model, "--json")
    values = json.loads(result.stdout)
    assert values["num_parameters"] == total
    assert values["num_active_parameters"] == active
    assert values["kv_bytes_per_token"] == kv
    assert values["max_position_embeddings"] == context
    sizes = {"float32": 4 * total, "bfloat16": 2 * total, "float16": 2 * total}
    config = ModelConfig.preset(model)
    sizes |= {name: recipe.packed_bytes(config) for name, recipe in RECIPES.items()}
    assert values["bytes"] == sizes
    assert values["quantization"] is None
    assert values["fits"].keys() == values["bytes"].keys()
    assert values["config"]["hidden_size"] == {"8x22b": 6144}.get(model, 4096)
    assert result.stderr == ""


def test_table_says_why_a_model_does_not_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "available_memory_bytes", lambda: 22_100_000_000)
    monkeypatch.setenv("COLUMNS", "120")
    text = run("info", "8x7b").stdout
    assert "46.7B (46,702,792,704)" in text
    assert "8 per layer, 2 at work" in text
    assert "needs 93.4 GB + 4.3 GB for a full context, 22.1 GB are free" in text
    assert text.count(" no ") == 6
    assert "needs 19.4 GB + 4.3 GB for a full context, 22.1 GB are free; room for a con" in text


def test_model_fits_when_weights_and_a_full_context_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * 7_241_732_096 + 32_768 * 131_072
    for available, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(info, "available_memory_bytes", lambda free=available: free)
        values = json.loads(run("info", "7b", "--json").stdout)
        expected = {"float32": False, "bfloat16": fits, "float16": fits}
        assert values["fits"] == expected | dict.fromkeys(RECIPES, True)
        assert values["max_context_that_fits"]["bfloat16"] == (32_768 if fits else 32_767)


def test_context_without_a_named_cache_is_that_of_a_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    free = 1_000_000_000
    available = 2 * 7_241_732_096 + free
    monkeypatch.setattr(info, "available_memory_bytes", lambda: available)
    values = json.loads(run("info", "7b", "--json").stdout)
    tokens = int(0.3 * free / 131_072)
    assert values["default_context"]["bfloat16"] == tokens
    assert values["default_context"]["float32"] == 0
    text = run("info", "7b").stdout
    assert f"context of {free // 131_072:,} tokens; {tokens:,} tokens without --kv-cache-gb" in text


def test_cached_context_of_float32_weights_is_float32(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    values = [
        json.loads(run("info", "8x7b", "--json", "--context", context).stdout)["peak_bytes"]
        for context in (1024, 2048)
    ]
    per_token = 131_072
    assert values[1]["float32"] - values[0]["float32"] == 1024 * 2 * per_token
    assert values[1]["bfloat16"] - values[0]["bfloat16"] == 1024 * per_token
    assert "186.8 GB + 8.6 GB for a full context" in run("info", "8x7b").stdout


def test_context_is_that_of_the_model_at_most(run: Run) -> None:
    result = run("info", "nano", "--context", 100_000)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: context is 100000; it must be from 1 to 8192, the context of this model.\n"
    )
    assert "with a context of 8,192 tokens" in run("info", "nano", "--context", 8192).stdout
    assert "with a context of 4,096 tokens" in run("info", "nano").stdout


def test_short_model_has_its_whole_context_by_default(run: Run, tiny: Path) -> None:
    assert "with a context of 256 tokens" in run("info", tiny).stdout


def test_layers_of_a_hub_id_are_refused(run: Run) -> None:
    result = run("info", "someone/nothing", "--layers", 2)
    assert result.exit_code == 2
    assert "layers is 2, but 'someone/nothing' has weights of its own" in result.stderr


def test_layers_option_changes_the_count(run: Run) -> None:
    values = json.loads(run("info", "random:8x7b", "--layers", 2, "--json").stdout)
    assert values["config"]["num_hidden_layers"] == 2


def test_folder_shows_files_and_tokenizer(run: Run, tiny: Path) -> None:
    values = json.loads(run("info", tiny, "--json").stdout)
    size = (tiny / "model.safetensors").stat().st_size
    assert values["files"] == {"layout": "Hugging Face", "count": 1, "bytes": size}
    assert "no tokenizer" in values["tokenizer"]["error"]
    assert "Hugging Face" in run("info", tiny).stdout


def test_packed_folder_shows_its_recipe(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    target = tmp_path / "packed"
    quantize_checkpoint(tiny, target, RECIPES["int3"])
    values = json.loads(run("info", target, "--json").stdout)
    assert values["files"]["bytes"] == (target / "model.safetensors").stat().st_size
    assert values["quantization"]["recipe"] == "int3"
    assert values["quantization"]["origin"]["source"] == "tiny"
    text = run("info", target).stdout
    assert "int3: experts int3, attention int4, head int8; " in text
    assert "bits per weight, embedding included; plain, from tiny by mixtral" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope"], "model is 'nope'"),
        (["random:nope"], "preset is 'nope'"),
        (["8x7b", "--layers", "0"], "num_hidden_layers is 0"),
        (["/"], "neither config.json nor params.json"),
        ([__file__], "a file; name a model folder, its config.json, or a GGUF file"),
    ],
)
def test_wrong_name_is_one_line(run: Run, arguments: list[str], part: str) -> None:
    result = run("info", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_hub_id_that_is_not_cached_fails_offline(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    result = run("info", "someone/nothing")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: someone/nothing is neither a folder here")
    assert result.stderr.count("\n") == 1


def test_peak_memory_is_weights_and_context_and_little_more(run: Run) -> None:
    values = [
        json.loads(run("info", "8x7b", "--json", "--context", context).stdout)
        for context in (1024, 2048)
    ]
    for name, size in values[0]["bytes"].items():
        assert size < values[0]["peak_bytes"][name] < size + 1.2e9
    more = values[1]["peak_bytes"]["int3"] - values[0]["peak_bytes"]["int3"]
    assert more == 1024 * values[0]["kv_bytes_per_token"]
