"""Packed checkpoints: what is written is what the kernels' quantiser gives, and errors help."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mixtral.checkpoint import (
    convert,
    open_checkpoint,
    packed_config,
    quantize_checkpoint,
    quantized_tensors,
    write_packed,
)
from mixtral.checkpoint.packed_names import packed_name
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.kernels.formats import dequantize
from mixtral.kernels.quantize import quantize
from mixtral.quantization import RECIPES, QuantizationRecipe
from tests.checkpoints_for_tests import (
    LAYOUTS,
    random_tensors,
    write_hf,
    write_json,
    write_random,
)

# Of a matrix of normal numbers, whatever its shape: the formats' own errors, and some room.
RELATIVE_ERROR = {"int8": 0.007, "int4": 0.09, "int3": 0.17}
INT4 = RECIPES["int4"]
W2 = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
GATE = "model.layers.0.block_sparse_moe.gate.weight"


def packed_folder(tmp_path: Path, config: ModelConfig, recipe: QuantizationRecipe = INT4) -> Path:
    write_random("hf", tmp_path / "source", config, seed=0)
    quantize_checkpoint(tmp_path / "source", tmp_path / "packed", recipe)
    return tmp_path / "packed"


def assert_packs(
    found: dict[str, Tensor], weights: dict[str, Tensor], recipe: QuantizationRecipe
) -> None:
    """Compare packed tensors with weights that were packed one by one, here."""
    weights = {"lm_head.weight": weights["model.embed_tokens.weight"]} | weights
    assert len(found) == len(weights)
    for name, weight in weights.items():
        form = recipe.format_of(name)
        if form is None:
            assert torch.equal(found[name], weight), name
        elif form == "bfloat16":
            assert torch.equal(found[name], weight.bfloat16()), name
        else:
            assert torch.equal(found[packed_name(name)], quantize(weight, form)), name


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_keeps_the_weights_up_to_rounding(
    name: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    recipe = RECIPES[name]
    weights = write_random("hf", tmp_path / "a", tiny_config, seed=1)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", recipe)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.recipe == recipe
    assert checkpoint.config == tiny_config.replace(dtype="bfloat16")
    assert checkpoint.num_bytes == recipe.packed_bytes(tiny_config)
    found = dict(checkpoint.tensors())
    assert_packs(found, weights, recipe)
    weight = weights[W2].float()
    form = recipe.experts
    read = dequantize(found[packed_name(W2)], form, rows=weight.shape[0], cols=weight.shape[1])
    assert float((read - weight).norm() / weight.norm()) < RELATIVE_ERROR[form]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_packs_to_the_same_bytes(
    layout: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(dtype="bfloat16", rope_theta=1e4)
    weights = write_random(layout, tmp_path / "a", config, seed=2)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4, max_shard_bytes=20_000)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert_packs(dict(checkpoint.tensors()), weights, INT4)
    assert len({file.path for file, _ in checkpoint.found.values()}) > 3


def test_dense_model_is_packed_under_its_own_names(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(num_local_experts=0, num_experts_per_tok=0)
    weights = write_random("hf", tmp_path / "a", config, seed=3)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.config.is_dense
    assert "model.layers.0.mlp.gate_proj.packed" in checkpoint.found
    assert_packs(dict(checkpoint.tensors()), weights, INT4)


def test_tied_head_is_packed_from_the_embedding(tiny_config: ModelConfig, tmp_path: Path) -> None:
    config = tiny_config.replace(tie_word_embeddings=True)
    weights = write_random("hf", tmp_path / "a", config, seed=4)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4, max_shard_bytes=10_000)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert not checkpoint.config.tie_word_embeddings
    assert checkpoint.num_bytes == INT4.packed_bytes(config)
    assert_packs(dict(checkpoint.tensors()), weights, INT4)


def test_stream_gives_the_same_as_the_folder(tiny_config: ModelConfig, tmp_path: Path) -> None:
    for is_tied in (False, True):
        config = tiny_config.replace(tie_word_embeddings=is_tied)
        weights = random_tensors(config, seed=5)
        backwards = [(name, weights[name]) for name in sorted(weights, reverse=True)]
        found = dict(quantized_tensors(backwards, config, INT4))
        assert_packs(found, weights, INT4)
        again = dict(quantized_tensors(found.items(), packed_config(config), INT4))
        assert all(torch.equal(again[name], found[name]) for name in found)
        target = tmp_path / str(is_tied)
        write_packed(target, config, backwards, INT4, max_shard_bytes=20_000)
        assert_packs(dict(open_checkpoint(target).tensors()), weights, INT4)


def test_norms_and_router_keep_their_values(tiny_config: ModelConfig, tmp_path: Path) -> None:
    for dtype, stored in (("float16", "float32"), ("bfloat16", "bfloat16")):
        config = tiny_config.replace(dtype=dtype)
        weights = write_random("hf", tmp_path / dtype, config, seed=6)
        quantize_checkpoint(tmp_path / dtype, tmp_path / f"{dtype}-packed", INT4)
        checkpoint = open_checkpoint(tmp_path / f"{dtype}-packed")
        found = dict(checkpoint.tensors())
        assert torch.equal(found[GATE].float(), weights[GATE].float())
        assert str(found[GATE].dtype) == f"torch.{stored}"
        assert checkpoint.dtype == "bfloat16"
        assert checkpoint.num_bytes == INT4.packed_bytes(config)


def test_dtype_of_a_load_leaves_packed_matrices_alone(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(packed_folder(tmp_path, tiny_config))
    found = dict(checkpoint.tensors(dtype=torch.float32))
    assert found[packed_name(W2)].dtype is torch.uint8
    assert found["model.embed_tokens.weight"].dtype is torch.float32
    (only,) = checkpoint.tensors(names=[packed_name(W2)])
    assert torch.equal(only[1], found[packed_name(W2)])


@pytest.mark.parametrize("max_shard_bytes", [10**9, 30_000])
def test_packed_tensors_are_aligned_views_of_the_file(
    max_shard_bytes: int, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    # An odd vocabulary and width, so that only the order within a shard keeps the alignment.
    config = tiny_config.replace(vocab_size=97, hidden_size=34)
    write_random("hf", tmp_path / "a", config, seed=7)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4, max_shard_bytes=max_shard_bytes)
    found = {n: t for n, t in open_checkpoint(tmp_path / "b").tensors() if n.endswith(".packed")}
    assert found
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())


def test_files_are_ordinary_safetensors_with_index_and_sums(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random("hf", tmp_path / "a", tiny_config, seed=8)
    (tmp_path / "a" / "tokenizer.model.v3").write_text("tokens")
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4, max_shard_bytes=50_000)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == INT4.packed_bytes(tiny_config)
    sums = json.loads((tmp_path / "b" / "checksums.json").read_text())
    files = sorted(sums)
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        with safe_open(tmp_path / "b" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert set(opened.keys()) == set(sums[file])
    others = {path.name for path in (tmp_path / "b").iterdir()} - set(files)
    described = {"config.json", "checksums.json", "model.safetensors.index.json"}
    assert others == described | {"tokenizer.model.v3"}


def test_config_says_how_it_was_made(tiny_config: ModelConfig, tmp_path: Path) -> None:
    folder = packed_folder(tmp_path, tiny_config)
    values = json.loads((folder / "config.json").read_text())
    assert values["torch_dtype"] == "bfloat16"
    assert values["tie_word_embeddings"] is False
    about = values["quantization_config"]
    assert about["quant_method"] == "mixtral"
    assert about["parts"] == {"experts": "int4", "attention": "int4", "lm_head": "int8"}
    assert about["origin"]["source"] == "source"
    assert about["origin"]["tool"].startswith("mixtral ")
    assert about["origin"]["calibration"] is None


def test_part_may_stay_in_a_dtype(tiny_config: ModelConfig, tmp_path: Path) -> None:
    recipe = QuantizationRecipe(
        name="careful", experts="int3", attention="bfloat16", lm_head="float32"
    )
    weights = write_random("hf", tmp_path / "a", tiny_config, seed=9)
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", recipe)
    checkpoint = open_checkpoint(tmp_path / "b")
    found = dict(checkpoint.tensors())
    query = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(found[query], weights[query].bfloat16())
    assert torch.equal(found["lm_head.weight"], weights["lm_head.weight"])
    assert checkpoint.num_bytes == recipe.packed_bytes(tiny_config)


def test_progress_counts_every_byte(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_random("hf", tmp_path / "a", tiny_config, seed=10)
    counts: list[int] = []
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4, on_bytes=counts.append)
    assert sum(counts) == INT4.packed_bytes(tiny_config)


def test_packed_source_is_copied_for_its_own_recipe_and_refused_for_others(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    folder = packed_folder(tmp_path, tiny_config)
    quantize_checkpoint(folder, tmp_path / "copy", INT4)
    for file in ("model.safetensors", "config.json", "checksums.json"):
        assert (tmp_path / "copy" / file).read_bytes() == (folder / file).read_bytes()
    with pytest.raises(CheckpointError, match="is packed as int4 and int3 is wanted"):
        quantize_checkpoint(folder, tmp_path / "other", RECIPES["int3"])
    with pytest.raises(CheckpointError, match="is packed as int4; only unquantized weights"):
        convert(folder, tmp_path / "other", layout="hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "packed", "source"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_no_number_is_named(
    value: float, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    weights = random_tensors(tiny_config, seed=11)
    weights[W2][3, 5] = value
    with pytest.raises(CheckpointError, match=rf"tensor {W2} cannot be packed: .*\[3, 5\]"):
        write_packed(tmp_path / "b", tiny_config, weights.items(), INT4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.embed_tokens.weight", (3, 5)),
        ("model.layers.1.input_layernorm.weight", (5,)),
        (GATE, (3, 5)),
    ],
)
def test_value_that_is_no_number_is_named_where_nothing_is_packed(
    name: str, place: tuple[int, ...], tiny_config: ModelConfig, tmp_path: Path
) -> None:
    weights = random_tensors(tiny_config, seed=11)
    weights[name][place] = float("nan")
    reason = rf"tensor {name} cannot be packed: {re.escape(str(list(place)))} is nan"
    with pytest.raises(CheckpointError, match=reason):
        write_packed(tmp_path / "b", tiny_config, weights.items(), INT4)
    with pytest.raises(CheckpointError, match=reason):
        list(quantized_tensors(weights.items(), tiny_config, INT4))
    assert list(tmp_path.iterdir()) == []


def test_embedding_that_overflows_bfloat16_is_refused(tiny_config: ModelConfig) -> None:
    weights = random_tensors(tiny_config, seed=11)
    weights["model.embed_tokens.weight"][0, 1] = torch.finfo(torch.float32).max
    with pytest.raises(CheckpointError, match=r"\[0, 1\] is 3\.4\d*e\+38, in bfloat16 inf"):
        list(quantized_tensors(weights.items(), tiny_config, INT4))


def test_wrong_streams_are_refused_and_nothing_is_left(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    weights = random_tensors(tiny_config, seed=12)
    packed = {packed_name(W2): torch.zeros(1, 64, dtype=torch.uint8)}

    def without(name: str) -> Iterator[tuple[str, Tensor]]:
        return ((n, t) for n, t in weights.items() if n != name)

    for stream, reason in (
        ([*weights.items(), ("x", torch.ones(2))], "x does not belong"),
        ([*weights.items(), (W2, weights[W2])], f"{W2} comes twice"),
        ([*without(W2), (W2, torch.ones(2, 3))], r"shape \[2, 3\]; the config says \[32, 24\]"),
        ([*without(W2), *packed.items()], r"shape \[1, 64\]; int4 needs \[1, 2176\]"),
        (without(W2), f"lacks 1 tensor: {packed_name(W2)}"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            write_packed(tmp_path / "b", tiny_config, stream, INT4)
        assert list(tmp_path.iterdir()) == []


def test_full_disk_is_noticed_first(
    tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random("hf", tmp_path / "a", tiny_config, seed=13)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"the packed checkpoint needs \d"):
        quantize_checkpoint(tmp_path / "a", tmp_path / "b", INT4)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def edit_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] |= changes.pop("quantization", {})  # type: ignore[operator]
    write_json(folder / "config.json", values | changes)


def refuse(folder: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_config_that_does_not_fit_the_packed_weights_is_refused(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    folder = packed_folder(tmp_path, tiny_config)
    sound = (folder / "config.json").read_text()
    parts = {"experts": "int3", "attention": "int4", "lm_head": "int8"}
    edit_config(folder, quantization={"parts": parts})
    refuse(folder, "model.safetensors", ".w1.packed", "[1, 2176]", "in int3 [1, 1664]")
    (folder / "config.json").write_text(sound)
    edit_config(folder, quantization={"parts": parts | {"experts": "bfloat16"}})
    refuse(folder, "model.safetensors", "w1.packed does not belong to this model")
    (folder / "config.json").write_text(sound)
    edit_config(folder, intermediate_size=240)
    refuse(folder, ".w1.packed", "[intermediate_size, hidden_size] = [240, 32]", "[8, 2176]")
    (folder / "config.json").write_text(sound)
    edit_config(folder, tie_word_embeddings=True)
    refuse(folder, "config.json", "tie_word_embeddings true")
    (folder / "config.json").write_text(sound)
    edit_config(folder, num_hidden_layers=1)
    refuse(folder, "num_hidden_layers 1; the weights have 2 layers")
    values = json.loads(sound)
    del values["quantization_config"]
    write_json(folder / "config.json", values)
    refuse(folder, ".packed does not belong", "config.json has no quantization_config")


def test_packed_config_beside_plain_weights_is_refused(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    folder = packed_folder(tmp_path, tiny_config)
    write_random("hf", tmp_path / "plain", tiny_config, seed=0)
    shutil.copyfile(folder / "config.json", tmp_path / "plain" / "config.json")
    refuse(tmp_path / "plain", "does not belong to this model")


def test_wrong_type_of_a_packed_tensor_is_refused(tiny_config: ModelConfig, tmp_path: Path) -> None:
    folder = packed_folder(tmp_path, tiny_config)
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["lm_head.packed"] |= {"dtype": "F16", "shape": [3, 2112]}  # The same number of bytes.
    text = json.dumps(header).encode()
    changed = len(text).to_bytes(8, "little") + text + data[start:]
    (folder / "model.safetensors").write_bytes(changed)
    refuse(folder, "model.safetensors", "lm_head.packed has dtype float16", "says int8", "uint8")
    (folder / "model.safetensors").write_bytes(data[:-64])
    refuse(folder, "model.safetensors is cut")


def test_plain_checkpoint_with_bytes_is_refused(tiny_config: ModelConfig, tmp_path: Path) -> None:
    weights = random_tensors(tiny_config, seed=14)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = weights | {W2: torch.zeros(shapes[W2], dtype=torch.uint8)}
    write_hf(tmp_path, tiny_config, wrong, num_shards=1)
    refuse(tmp_path, W2, "dtype uint8", "float32")
