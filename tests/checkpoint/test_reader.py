"""Every layout and container gives the same tensors under our names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mixtral.checkpoint import open_checkpoint
from mixtral.checkpoint.containers import open_weight_file
from mixtral.checkpoint.names import canonical_shapes
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from tests.checkpoints_for_tests import (
    LAYOUTS,
    consolidated,
    fused,
    hf_config,
    mistral_params,
    random_tensors,
    stacked,
    write_hf,
    write_json,
    write_random,
)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].is_contiguous(), name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_tensors(
    layout: str, dtype: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(dtype=dtype)
    wanted = write_random(layout, tmp_path, config, seed=1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == layout
    assert checkpoint.dtype == checkpoint.config.dtype == dtype
    assert checkpoint.num_bytes == config.weight_bytes(config.dtype)
    found = list(checkpoint.tensors())
    assert len(found) == len(wanted)
    assert_same(dict(found), wanted)


@pytest.mark.parametrize("heads", [(4, 1), (4, 4)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_multi_query_and_full_heads_are_read(
    layout: str, heads: tuple[int, int], tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    wanted = write_random(layout, tmp_path, config, seed=2)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), wanted)


@pytest.mark.parametrize("layout", ["hf", "consolidated"])
def test_dense_model_is_one_expert_without_a_gate(
    layout: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(num_local_experts=0, num_experts_per_tok=0)
    wanted = write_random(layout, tmp_path, config, seed=3)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.is_dense
    assert_same(dict(checkpoint.tensors()), wanted)
    assert {n: tuple(t.shape) for n, t in wanted.items()} == canonical_shapes(config)


@pytest.mark.parametrize("naming", [consolidated, stacked])
@pytest.mark.parametrize(
    "container",
    [
        "consolidated.00.pth",
        "consolidated.00.pt",
        "consolidated.safetensors",
        "consolidated.00.safetensors",
        "indexed",
        "numbered",
    ],
)
def test_naming_and_container_combine_freely(
    naming: object, container: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    ours = random_tensors(tiny_config, seed=4)
    tensors = (
        consolidated(tiny_config, ours) if naming is consolidated else stacked(tiny_config, ours)
    )
    write_json(tmp_path / "params.json", mistral_params(tiny_config))
    if container in ("indexed", "numbered"):
        names = list(tensors)
        files = [f"consolidated-0000{i}-of-00002.safetensors" for i in (1, 2)]
        for i, file in enumerate(files):
            save_file({name: tensors[name] for name in names[i::2]}, tmp_path / file)
        if container == "indexed":
            weight_map = {name: files[i % 2] for i, name in enumerate(names)}
            write_json(tmp_path / "consolidated.safetensors.index.json", {"weight_map": weight_map})
    elif container.endswith(".safetensors"):
        save_file(tensors, tmp_path / container)
    else:
        torch.save(tensors, tmp_path / container)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), ours)


def test_pickle_from_before_zip_is_loaded(tiny_config: ModelConfig, tmp_path: Path) -> None:
    ours = random_tensors(tiny_config, seed=5)
    write_json(tmp_path / "params.json", mistral_params(tiny_config))
    torch.save(
        consolidated(tiny_config, ours),
        tmp_path / "consolidated.00.pth",
        _use_new_zipfile_serialization=False,
    )
    assert_same(dict(open_checkpoint(tmp_path).tensors()), ours)


def test_views_and_transposes_inside_a_pickle_are_read(tmp_path: Path) -> None:
    base = torch.arange(40.0).view(10, 4)
    held = {"part": base[2:5], "turned": base.t(), "step": base[::3], "parameter": base[0]}
    held["parameter"] = torch.nn.Parameter(base[1])
    torch.save(held, tmp_path / "x.pth")
    file = open_weight_file(tmp_path / "x.pth")
    for name, tensor in held.items():
        assert torch.equal(file.read(file.tensors[name]), tensor)


def test_tensors_are_views_of_one_private_map(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_hf(tmp_path, tiny_config, random_tensors(tiny_config, seed=6), num_shards=1)
    before = (tmp_path / "model.safetensors").read_bytes()
    found = dict(open_checkpoint(tmp_path).tensors())
    starts = [tensor.data_ptr() for tensor in found.values()]
    assert max(starts) - min(starts) < len(before)
    for tensor in found.values():
        tensor.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_order_is_that_of_the_files(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_random("hf", tmp_path, tiny_config, seed=7)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    files = [index[name] for name, _ in open_checkpoint(tmp_path).tensors()]
    assert files == sorted(files)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_are_converted_on_request(
    layout: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    wanted = write_random(layout, tmp_path, tiny_config, seed=8)
    found = dict(open_checkpoint(tmp_path).tensors(dtype=torch.bfloat16))
    assert_same(found, {name: tensor.bfloat16() for name, tensor in wanted.items()})


def test_number_too_large_for_float16_is_refused(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_config, seed=9)
    tensors["model.norm.weight"][3] = 1e5
    write_hf(tmp_path, tiny_config, tensors)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds the value 100000"):
        list(open_checkpoint(tmp_path).tensors(dtype=torch.float16))


def test_float_types_may_be_mixed(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_config.replace(dtype="bfloat16"), seed=10)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    write_hf(tmp_path, tiny_config, tensors)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.dtype == "bfloat16"
    assert_same(dict(checkpoint.tensors()), tensors)


def test_tied_head_may_be_absent_or_equal(tiny_config: ModelConfig, tmp_path: Path) -> None:
    config = tiny_config.replace(tie_word_embeddings=True)
    tensors = random_tensors(config, seed=11)
    write_hf(tmp_path, config, tensors, num_shards=1)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), tensors)
    head = tensors["model.embed_tokens.weight"].clone()
    write_hf(tmp_path, config, tensors | {"lm_head.weight": head}, num_shards=1)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), tensors)
    head[0, 0] += 1
    write_hf(tmp_path, config, tensors | {"lm_head.weight": head}, num_shards=1)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed"):
        list(open_checkpoint(tmp_path).tensors())


def test_rotary_buffers_are_skipped(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_config, seed=12)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    write_hf(tmp_path, tiny_config, tensors | extra)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), tensors)


def test_hugging_face_files_win_where_both_are_there(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    wanted = write_random("hf", tmp_path, tiny_config, seed=13)
    write_random("consolidated", tmp_path, tiny_config, seed=14)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == "hf"
    assert_same(dict(checkpoint.tensors()), wanted)


def test_index_without_shards_gives_way_to_consolidated(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random("hf", tmp_path, tiny_config, seed=13)
    for shard in tmp_path.glob("model-*"):
        shard.unlink()
    wanted = write_random("consolidated", tmp_path, tiny_config, seed=14)
    assert_same(dict(open_checkpoint(tmp_path).tensors()), wanted)


def test_transformers_reads_the_layouts_as_we_do(tiny_config: ModelConfig, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny_config.replace(num_local_experts=3)
    wanted = write_random("hf", tmp_path / "hf", config, seed=15)
    write_random("hf_fused", tmp_path / "fused", config, seed=15)
    for name in ("hf", "fused"):
        model = transformers.MixtralForCausalLM.from_pretrained(tmp_path / name)
        theirs = model.state_dict()
        expected = fused(config, wanted)
        assert sorted(theirs) == sorted(expected)
        assert all(torch.equal(theirs[key], expected[key]) for key in expected)
        assert_same(dict(open_checkpoint(tmp_path / name).tensors()), wanted)
    model.save_pretrained(tmp_path / "saved")
    assert_same(dict(open_checkpoint(tmp_path / "saved").tensors()), wanted)


def test_transformers_reads_the_dense_layout_as_we_do(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny_config.replace(num_local_experts=0, num_experts_per_tok=0)
    write_random("hf", tmp_path, config, seed=16)
    theirs = transformers.MistralForCausalLM.from_pretrained(tmp_path).state_dict()
    found = dict(open_checkpoint(tmp_path).tensors())
    layer = "model.layers.1."
    for ours, name in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        expert = found[f"{layer}block_sparse_moe.experts.0.{ours}.weight"]
        assert torch.equal(theirs[f"{layer}mlp.{name}.weight"], expert)


_PEAKS = """
import sys, torch
from pathlib import Path
from mixtral.checkpoint import open_checkpoint

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

for argument in sys.argv[2:]:
    layout, dtype, keep = argument.split(":")
    checkpoint = open_checkpoint(Path(sys.argv[1]) / layout)
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before, held, size = resident("VmRSS"), [], 0
    for _, tensor in checkpoint.tensors(dtype=getattr(torch, dtype), keep=keep == "keep"):
        tensor.view(-1)[::64].sum()
        size += tensor.nbytes
        held += [tensor] if keep == "keep" else []
    print((resident("VmHWM") - before) / size)
    del held, tensor, checkpoint
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_little_more_memory_than_the_weights(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=6, dtype="bfloat16"
    )
    for layout in LAYOUTS:
        write_random(layout, tmp_path / layout, config, seed=17)
    limits = {
        "hf:bfloat16:keep": 1.1,
        "hf_fused:bfloat16:keep": 1.1,
        "consolidated:bfloat16:keep": 1.1,
        "stacked:bfloat16:keep": 1.2,
        "hf:float32:keep": 1.1,
        "hf:bfloat16:pass": 0.1,
    }
    command = [sys.executable, "-c", _PEAKS, str(tmp_path), *limits]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = [float(line) for line in done.stdout.splitlines()]
    over = [
        (case, peak)
        for (case, limit), peak in zip(limits.items(), peaks, strict=True)
        if peak > limit
    ]
    assert not over, peaks


def test_config_of_the_stacked_release_may_hold_strings(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(sliding_window=256)
    write_random("stacked", tmp_path, config, seed=18)
    assert '"256"' in (tmp_path / "params.json").read_text()
    assert open_checkpoint(tmp_path).config.sliding_window == 256
    assert hf_config(config)["sliding_window"] == 256
