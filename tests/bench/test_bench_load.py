"""Loading is measured in fresh processes, from every kind of file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral.bench.load import LoadOptions, measure_load
from mixtral.bench.probes import Prober
from mixtral.bench.table import load_table
from mixtral.checkpoint import quantize_checkpoint, write_checkpoint
from mixtral.checkpoint.gguf import convert_to_gguf
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model_source import find_model
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_tensors
from tests.bench.bench_for_tests import (
    CONFIG,
    RESULT_FIELDS,
    needs_library,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny"
    write_checkpoint(path, CONFIG, random_tensors(CONFIG, dtype=torch.bfloat16), layout="hf")
    return path


def loaded(path: Path, prober: Prober, **changes: Any) -> dict[str, Any]:
    wanted = LoadOptions(name="tiny", repeats=1, prompt_tokens=4, **changes)
    report = measure_load(find_model(str(path)), prober, wanted)
    assert load_table(report).row_count == 1
    values: dict[str, Any] = report.to_json()["results"][0]
    return values


def test_load_is_measured_in_a_process_of_its_own(prober: Prober, folder: Path) -> None:
    values = loaded(folder, prober)
    assert set(values) == RESULT_FIELDS | {"load"}
    stored = 2 * CONFIG.num_parameters
    load = values["load"]
    assert load["checkpoint_bytes"] == values["weight_bytes_per_step"] == stored
    assert load["page_cache"] == "warm"
    times = [load[name]["min"] for name in ("process_s", "first_token_s", "construct_s")]
    assert times == sorted(times, reverse=True)
    assert min(*times, load["prefill_s"]["min"]) > 0


@needs_library
def test_load_takes_packed_folders_gguf_files_and_recipes(
    prober: Prober, folder: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(folder, tmp_path / "packed", RECIPES["int4"])
    convert_to_gguf(folder, tmp_path / "m.gguf", quantization="q8_0")
    assert loaded(tmp_path / "packed", prober)["format"] == "int4"
    assert loaded(tmp_path / "m.gguf", prober, quantization="int3")["format"] == "int3"


def test_pairs_that_were_whole_are_reported_after_ctrl_c(prober: Prober, folder: Path) -> None:
    def stop() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    calls = iter(range(1))
    wanted = LoadOptions(name="tiny", repeats=2, prompt_tokens=4)
    report = measure_load(find_model(str(folder)), prober, wanted, on_repeat=stop)
    assert report.is_cut
    assert len(report.results) == 1


def test_another_recipe_than_the_folders_is_refused_before_it_is_read(
    prober: Prober, folder: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(folder, tmp_path / "packed", RECIPES["int4"])
    with pytest.raises(ConfigError, match="is packed as int4, and int8 is asked for"):
        loaded(tmp_path / "packed", prober, quantization="int8")


def test_a_folder_that_cannot_be_loaded_is_an_error(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    with pytest.raises(CheckpointError):
        loaded(tmp_path, prober)
