"""Digests of a model's norms and routers: equal in every copy, different in every other model."""

import logging
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mixtral.checkpoint import open_checkpoint, quantize_checkpoint, write_checkpoint
from mixtral.checkpoint.base_weights import base_digest, warn_of_other_base
from mixtral.checkpoint.gguf import convert_to_gguf
from mixtral.checkpoint.merge import merge_adapter
from mixtral.checkpoint.peft import read_adapter, write_adapter
from mixtral.model.adapter import Adapter
from mixtral.quantization import RECIPES
from tests.adapters_for_tests import random_adapter
from tests.checkpoint.gguf_for_tests import gguf_tensors, write_with_gguf
from tests.checkpoints_for_tests import DTYPES, LAYOUTS, random_tensors, write_random
from tests.models_for_tests import tiny_config, tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    write_random("hf", folder, tiny_config(dtype="bfloat16"), seed=0)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_model_have_its_digest(layout: str, base: Path, tmp_path: Path) -> None:
    write_random(layout, tmp_path / "copy", tiny_config(dtype="bfloat16"), seed=0)
    assert base_digest(tmp_path / "copy") == base_digest(base)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_packed_copies_of_a_model_have_its_digest(recipe: str, dtype: str, tmp_path: Path) -> None:
    write_random("hf", tmp_path / "base", tiny_config(dtype=dtype), seed=0)
    quantize_checkpoint(tmp_path / "base", tmp_path / "packed", RECIPES[recipe])
    assert base_digest(tmp_path / "packed") == base_digest(tmp_path / "base")


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_in_other_dtypes_have_the_digest(dtype: str, tmp_path: Path) -> None:
    config = tiny_config(dtype="bfloat16")
    tensors = random_tensors(config, seed=0)
    # Weights near zero, which float16 holds with fewer bits than bfloat16, or not at all.
    gate = tensors["model.layers.0.block_sparse_moe.gate.weight"]
    gate *= torch.logspace(0, -12, gate.numel()).view_as(gate)
    for name, kind in (("base", torch.bfloat16), ("copy", DTYPES[dtype])):
        cast = ((key, tensor.to(kind)) for key, tensor in tensors.items())
        write_checkpoint(tmp_path / name, config, cast, layout="hf")
    assert open_checkpoint(tmp_path / "copy").dtype == dtype
    assert base_digest(tmp_path / "copy") == base_digest(tmp_path / "base")


@pytest.mark.parametrize("quantization", ["f16", "bf16", "q4_0"])
def test_gguf_files_of_a_model_have_its_digest(
    quantization: str, base: Path, tmp_path: Path
) -> None:
    convert_to_gguf(base, tmp_path / "copy.gguf", quantization=quantization)
    assert base_digest(tmp_path / "copy.gguf") == base_digest(base)


def with_rounded_routers(file: Path) -> Path:
    """Write a GGUF file whose routers are in blocks with scales."""
    config, kind = tiny_config(), gguf.GGMLQuantizationType.Q8_0
    arrays = gguf_tensors(config, random_tensors(config, seed=0))
    routers = [name for name in arrays if "ffn_gate_inp" in name]
    arrays |= {name: gguf.quants.quantize(arrays[name], kind) for name in routers}
    write_with_gguf(file, config, arrays, dict.fromkeys(routers, kind))
    return file


def test_other_models_of_the_same_geometry_have_other_digests(tmp_path: Path) -> None:
    for changes in ({}, {"num_local_experts": 0, "num_experts_per_tok": 0}):
        found = set()
        for seed in range(3):
            folder = tmp_path / f"{len(changes)} {seed}"
            write_random("hf", folder, tiny_config(**changes), seed=seed)
            found.add(base_digest(folder))
        assert len(found) == 3


def test_models_whose_norms_are_all_ones_are_told_apart_by_their_routers(tmp_path: Path) -> None:
    for seed in (0, 1):
        model = tiny_model(seed=seed)
        write_checkpoint(tmp_path / str(seed), model.config, model.named_parameters(), layout="hf")
    assert base_digest(tmp_path / "0") != base_digest(tmp_path / "1")


def adapter_of(base: Path, folder: Path) -> Path:
    found = random_adapter(tiny_config(), "attention").matrices
    adapter = Adapter(matrices=found, base_model="some/base", base_digest=base_digest(base))
    write_adapter(folder, adapter, tiny_config())
    return folder


def test_digest_travels_in_the_metadata_of_the_tensors_alone(base: Path, tmp_path: Path) -> None:
    """PEFT warns of unknown fields in adapter_config.json, and passes over metadata."""
    adapter = adapter_of(base, tmp_path / "adapter")
    assert read_adapter(adapter, tiny_config()).base_digest == base_digest(base)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        assert base_digest(base) in file.metadata().values()
    assert base_digest(base) not in (adapter / "adapter_config.json").read_text()


def test_merging_into_the_base_or_a_merged_copy_of_it_is_silent(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    merge_adapter(base, adapter, tmp_path / "once")
    merge_adapter(tmp_path / "once", adapter, tmp_path / "twice")
    assert not caplog.records


def test_merging_into_another_model_warns_in_one_line_that_names_both(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    write_random("hf", tmp_path / "other", tiny_config(), seed=1)
    with caplog.at_level(logging.WARNING, "mixtral"):
        merge_adapter(tmp_path / "other", adapter, tmp_path / "merged")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    for named in (str(adapter), "some/base", str(tmp_path / "other")):
        assert named in line


def test_adapter_that_does_not_know_its_base_is_taken_in_silence(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})  # as PEFT writes it
    write_random("hf", tmp_path / "other", tiny_config(), seed=1)
    merge_adapter(tmp_path / "other", adapter, tmp_path / "merged")
    assert read_adapter(adapter, tiny_config()).base_digest is None
    assert not caplog.records


def test_weights_that_are_random_or_not_known_to_the_bit_are_not_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Adapter(matrices={}, base_model="some/base", base_digest="0" * 64)
    file = with_rounded_routers(tmp_path / "rounded.gguf")
    assert base_digest(file) is None
    warn_of_other_base({"here": adapter}, file, "rounded.gguf")
    warn_of_other_base({"here": adapter}, None, "random:nano")
    assert not caplog.records
