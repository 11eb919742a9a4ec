"""Wrong, cut and hostile files are refused before a weight is read, by a line that helps."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixtral.checkpoint import open_checkpoint
from mixtral.checkpoint.containers import WeightFile
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from tests.checkpoints_for_tests import (
    LAYOUTS,
    consolidated,
    hf_config,
    mistral_params,
    random_tensors,
    write_hf,
    write_json,
    write_random,
)

SHARD = "model-00002-of-00003.safetensors"
W2 = "model.layers.1.block_sparse_moe.experts.3.w2.weight"


def refuse(folder: Path, *parts: str) -> None:
    """Open a folder, and require one line of an error that has all the parts."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_json(file: Path, **changes: Any) -> None:
    write_json(file, json.loads(file.read_text()) | changes)


def file_of(folder: Path, tensor: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][tensor])


@pytest.fixture
def folder(tiny_config: ModelConfig, tmp_path: Path) -> Path:
    """A sharded Hugging Face checkpoint, still sound."""
    write_random("hf", tmp_path, tiny_config, seed=0)
    return tmp_path


@pytest.fixture
def pickled(tiny_config: ModelConfig, tmp_path: Path) -> Path:
    """The file of a consolidated checkpoint, still sound."""
    write_random("consolidated", tmp_path, tiny_config, seed=0)
    return tmp_path / "consolidated.00.pth"


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "nowhere does not exist", "hub id")


def test_file_instead_of_folder(folder: Path) -> None:
    refuse(folder / SHARD, "is a file", str(folder))


def test_empty_folder(tmp_path: Path) -> None:
    refuse(tmp_path, "has no weights", "it is empty")


def test_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refuse(tmp_path, "has no weights", "pytorch_model.bin", "consolidated")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refuse(folder, "neither config.json nor params.json")


def test_missing_shard(folder: Path) -> None:
    (folder / SHARD).unlink()
    refuse(folder, "lacks 1 of its files", SHARD)


def test_missing_shard_without_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    (folder / SHARD).unlink()
    refuse(folder, "lacks 1 of its files", SHARD)


def test_missing_file_of_the_eight(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_random("stacked", tmp_path, tiny_config, seed=0)
    (tmp_path / "consolidated.03.pt").unlink()
    refuse(tmp_path, "consolidated.03.pt")
    write_random("stacked", tmp_path, tiny_config, seed=0)
    (tmp_path / "consolidated.07.pt").unlink()
    refuse(tmp_path, "lacks", "tensors: layers.")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_cut_safetensors(folder: Path, keep: float) -> None:
    file = folder / SHARD
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refuse(folder, SHARD, "is empty" if keep == 0 else "is cut")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1])
def test_cut_pickle(pickled: Path, keep: float) -> None:
    data = pickled.read_bytes()
    pickled.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    if keep == -1:  # The last byte of a zip is an empty comment's length; all data is there.
        pickled.write_bytes(data[:-30])
    refuse(pickled.parent, pickled.name)


@pytest.mark.parametrize("keep", [10, 0.5, -1])
def test_cut_pickle_from_before_zip(tiny_config: ModelConfig, tmp_path: Path, keep: float) -> None:
    file = tmp_path / "consolidated.00.pth"
    tensors = consolidated(tiny_config, random_tensors(tiny_config, seed=0))
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    write_json(tmp_path / "params.json", mistral_params(tiny_config))
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refuse(tmp_path, file.name)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        (b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x00(q"),  # AssertionError: no such record
        (b"\x86q", b")q"),  # TypeError: more arguments than the function has
    ],
)
def test_pickle_with_a_wrong_byte(pickled: Path, sound: bytes, damaged: bytes) -> None:
    data = pickled.read_bytes()
    assert sound in data
    pickled.write_bytes(data.replace(sound, damaged))
    refuse(pickled.parent, pickled.name)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_never_run(pickled: Path, is_zip: bool) -> None:
    mark = pickled.parent / "pwned"
    held = {"norm.weight": torch.ones(2), "x": Hostile(mark)}
    torch.save(held, pickled, _use_new_zipfile_serialization=is_zip)
    refuse(pickled.parent, pickled.name, "calls posix.system, which is code; it was not run")
    pickled.write_bytes(pickle.dumps(Hostile(mark)))
    refuse(pickled.parent, pickled.name)
    assert not mark.exists()


def test_pickle_of_something_else(pickled: Path) -> None:
    torch.save([torch.ones(2)], pickled)
    refuse(pickled.parent, "holds a list")
    torch.save({"model": {"norm.weight": torch.ones(2)}}, pickled)
    refuse(pickled.parent, "model is a dict")
    with zipfile.ZipFile(pickled, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    refuse(pickled.parent, "is compressed")


def test_wrong_shape_says_both(folder: Path) -> None:
    rewrite(file_of(folder, W2), lambda t: t.update({W2: torch.ones(32, 25)}))
    refuse(folder, W2, "[32, 25]", "[hidden_size, intermediate_size] = [32, 24]", ".safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64, torch.bool])
def test_wrong_dtype(folder: Path, dtype: torch.dtype) -> None:
    rewrite(file_of(folder, W2), lambda t: t.update({W2: torch.zeros(32, 24).to(dtype)}))
    refuse(folder, W2, "has dtype", "must be one of float32, bfloat16, float16")


def test_wrong_dtype_in_a_pickle(pickled: Path) -> None:
    tensors = torch.load(pickled)
    tensors["norm.weight"] = tensors["norm.weight"].char()
    torch.save(tensors, pickled)
    refuse(pickled.parent, "norm.weight", "int8")


def test_extra_tensor(folder: Path) -> None:
    rewrite(folder / SHARD, lambda t: t.update(surprise=torch.ones(2)))
    refuse(folder, SHARD, "tensor surprise does not belong to this model")


def test_missing_tensors_are_counted(folder: Path, tiny_config: ModelConfig) -> None:
    (folder / "model.safetensors.index.json").unlink()
    for file in folder.glob("model-*"):
        file.unlink()
    tensors = random_tensors(tiny_config, seed=0)
    kept = {name: tensor for name, tensor in tensors.items() if "w2" not in name}
    write_hf(folder, tiny_config, kept, num_shards=1)
    refuse(
        folder, "lacks 8 tensors: model.layers.0.block_sparse_moe.experts.0.w2.weight", "and 5 more"
    )


def test_missing_head_is_named(folder: Path, tiny_config: ModelConfig, tmp_path: Path) -> None:
    tied = tiny_config.replace(tie_word_embeddings=True)
    write_random("hf", tmp_path / "x", tied, seed=0)
    edit_json(tmp_path / "x" / "config.json", tie_word_embeddings=False)
    refuse(tmp_path / "x", "lm_head.weight", "tie_word_embeddings")


def test_index_that_points_nowhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    other = next(file for file in weight_map.values() if file != weight_map[W2])
    edit_json(index, weight_map=weight_map | {W2: other})
    refuse(folder, W2, other, "does not hold it")


@pytest.mark.parametrize("target", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", 3])
def test_index_that_leaves_the_folder(folder: Path, target: object) -> None:
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=weight_map | {W2: target})
    refuse(folder, W2, repr(target), "same folder")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "["])
def test_damaged_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    refuse(folder, "model.safetensors.index.json")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("more", [1, -1])
def test_config_with_other_layers(
    layout: str, more: int, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random(layout, tmp_path, tiny_config, seed=0)
    layers = 2 + more
    field = "n_layers" if layout == "consolidated" else "num_hidden_layers"
    edit_json(next(tmp_path.glob("[cp]*.json")), **{field: layers})
    refuse(tmp_path, f"has num_hidden_layers {layers}; the weights have 2 layers")


def test_config_with_other_sizes(folder: Path) -> None:
    for field, value in [("vocab_size", 97), ("num_key_value_heads", 4), ("intermediate_size", 25)]:
        saved = (folder / "config.json").read_text()
        edit_json(folder / "config.json", **{field: value})
        refuse(folder, "has shape", field)
        (folder / "config.json").write_text(saved)
    edit_json(folder / "config.json", num_local_experts=5)
    refuse(folder, "has num_local_experts 5; the weights have 4 experts")


def test_weights_of_another_model(tiny_config: ModelConfig, tmp_path: Path) -> None:
    save_file({"transformer.wte.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", hf_config(tiny_config))
    refuse(tmp_path, "no tensor of a Mixtral", "transformer.wte.weight")


def entry(begin: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]} | changes


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": entry(0, 16), "b": entry(8, 24)}, "b overlaps a"),
        ({"a": entry(0, 4096)}, "a ends at byte"),
        ({"a": entry(0, 16, shape=[5])}, "needs 20"),
        ({"a": entry(0, 16, shape=[-4])}, "damaged"),
        ({"a": entry(0, 16, shape=["4"])}, "damaged"),
        ({"a": entry(16, 0)}, "damaged"),
        ({"a": entry(0, 16, data_offsets=[0])}, "damaged"),
        ({"a": entry(0, 16, data_offsets=[-8, 8])}, "damaged"),
        ({"a": 3}, "damaged"),
        ({"a": {}}, "damaged"),
        ([], "no JSON object"),
        (b"{", "not a safetensors file"),
        (b"[" * 100_000, "not a safetensors file"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"\xff\xfe", "not a safetensors file"),
    ],
)
def test_damaged_header(
    header: object, reason: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(64)
    (tmp_path / "model.safetensors").write_bytes(data)
    write_json(tmp_path / "config.json", hf_config(tiny_config))
    refuse(tmp_path, "model.safetensors", reason)


def test_header_of_absurd_length(tiny_config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    write_json(tmp_path / "config.json", hf_config(tiny_config))
    refuse(tmp_path, "model.safetensors is not a safetensors file")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opening_reads_no_weights(
    layout: str, tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a weight was read")

    write_random(layout, tmp_path, tiny_config, seed=0)
    monkeypatch.setattr(WeightFile, "read", fail)
    open_checkpoint(tmp_path)
