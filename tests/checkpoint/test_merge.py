"""An adapter merged into a checkpoint: the unmerged logits, every layout, nothing else changed."""

import itertools
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint, quantize_checkpoint
from mixtral.checkpoint.merge import merge_adapter
from mixtral.checkpoint.peft import write_adapter
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.model import Transformer
from mixtral.model.adapter import Adapter
from mixtral.model.lora import add_adapter
from mixtral.quantization import RECIPES
from tests.adapters_for_tests import logits_of, random_adapter, relative_error
from tests.checkpoints_for_tests import LAYOUTS, write_random
from tests.models_for_tests import tiny_config


def load(folder: Path) -> Transformer:
    checkpoint = open_checkpoint(folder)
    return Transformer.from_tensors(checkpoint.config, checkpoint.tensors())


def prepare(
    folder: Path, config: ModelConfig, layout: str = "hf", target: str = "everything"
) -> tuple[Path, Path, Adapter]:
    """Write a base and an adapter."""
    write_random(layout, folder / "base", config, seed=0)
    adapter = random_adapter(config, target)
    write_adapter(folder / "adapter", adapter, config)
    return folder / "base", folder / "adapter", adapter


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_logits_are_the_unmerged_ones(layout: str, tmp_path: Path) -> None:
    base, adapter, matrices = prepare(tmp_path, tiny_config(), layout)
    merge_adapter(base, adapter, tmp_path / "merged")
    unmerged = load(base)
    before = logits_of(unmerged)
    add_adapter(unmerged, matrices)
    expected = logits_of(unmerged)
    assert relative_error(logits_of(load(tmp_path / "merged")), expected) < 1e-5
    assert relative_error(before, expected) > 1e-3
    is_mistral = layout in ("consolidated", "stacked")
    assert open_checkpoint(tmp_path / "merged").layout == ("consolidated" if is_mistral else "hf")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_are_rounded_once_and_the_rest_keeps_its_bits(dtype: str, tmp_path: Path) -> None:
    config = tiny_config(dtype=dtype)
    base, adapter, matrices = prepare(tmp_path, config, target="expert 3 of layer 0")
    merge_adapter(base, adapter, tmp_path / "merged")
    before = dict(open_checkpoint(base).tensors())
    after = dict(open_checkpoint(tmp_path / "merged").tensors())
    assert after.keys() == before.keys()
    for name, weight in before.items():
        found = matrices.matrices.get(name.removesuffix(".weight"))
        expected = weight if found is None else (weight.float() + found.delta()).to(weight.dtype)
        assert after[name].dtype == weight.dtype
        assert torch.equal(after[name], expected), name
        assert (found is None) == torch.equal(after[name], weight), name


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base, adapter, _ = prepare(tmp_path, tiny_config(tie_word_embeddings=True))
    merge_adapter(base, adapter, tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged").config.tie_word_embeddings
    assert "lm_head.weight" not in dict(open_checkpoint(tmp_path / "merged").tensors())


def test_tokenizer_travels_along_and_nothing_is_left_beside(tmp_path: Path) -> None:
    base, adapter, _ = prepare(tmp_path, tiny_config())
    (base / "tokenizer.model").write_bytes(b"words")
    merge_adapter(base, adapter, tmp_path / "merged")
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


def test_merge_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    base, adapter, _ = prepare(tmp_path, tiny_config())
    calls = itertools.count()

    def stop(num_bytes: int) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_adapter(base, adapter, tmp_path / "merged", on_bytes=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_packed_base_is_refused_with_advice(tmp_path: Path) -> None:
    config = tiny_config(hidden_size=128, intermediate_size=128)
    base, adapter, _ = prepare(tmp_path, config)
    quantize_checkpoint(base, tmp_path / "packed", RECIPES["int4"])
    with pytest.raises(CheckpointError, match=r"packed as int4; .* --quantization int4"):
        merge_adapter(tmp_path / "packed", adapter, tmp_path / "merged")


def test_adapter_of_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    base, _, _ = prepare(tmp_path, tiny_config())
    other = tiny_config(intermediate_size=64)
    write_adapter(tmp_path / "other", random_adapter(other), other)
    with pytest.raises(CheckpointError, match="for another model"):
        merge_adapter(base, tmp_path / "other", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_sum_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    config = tiny_config(dtype="float16")
    write_random("hf", tmp_path / "base", config, seed=0)
    huge = random_adapter(config, "router", scale=lambda name: 1e6)
    write_adapter(tmp_path / "adapter", huge, config)
    with pytest.raises(CheckpointError, match=r"gate\.weight holds the value .* float16"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
