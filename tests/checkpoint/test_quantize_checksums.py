"""A flipped bit in a packed checkpoint is found, and its file and tensor are named."""

import json
from pathlib import Path

import pytest

from mixtral.checkpoint import open_checkpoint, quantize_checkpoint, verify_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.quantization import RECIPES
from tests.checkpoints_for_tests import write_json, write_random


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder of three shards, still sound."""
    config = ModelConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
    )
    folder = tmp_path_factory.mktemp("models")
    write_random("hf", folder / "a", config, seed=0)
    quantize_checkpoint(folder / "a", folder / "b", RECIPES["int4"], max_shard_bytes=20_000)
    return folder / "b"


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    for file in packed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refuse(folder: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(folder)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def flip(file: Path, position: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes([byte ^ 0x10]))


def test_sound_folder_passes_and_says_how_fast(packed: Path) -> None:
    checkpoint = open_checkpoint(packed)
    for result in (verify_checkpoint(packed), verify_checkpoint(checkpoint)):
        assert result is not None
        assert result.num_bytes == checkpoint.num_bytes
        assert result.gb_per_s > 0


def test_flipped_bit_is_found_in_every_tensor(folder: Path) -> None:
    places = list(open_checkpoint(folder).found.values())
    assert len({file.path for file, _ in places}) > 2
    for file, stored in places:
        for position in (stored.offset, stored.offset + stored.num_bytes - 1):
            flip(file.path, position)
            refuse(folder, str(file.path), f"tensor {stored.name} is damaged", "convert the model")
            flip(file.path, position)
    verify_checkpoint(folder)


def test_missing_and_damaged_sums_are_errors_with_advice(folder: Path) -> None:
    sums = folder / "checksums.json"
    sound = json.loads(sums.read_text())
    file = min(sound)
    tensor = min(sound[file])
    for damaged in (
        {},
        sound | {file: {}},
        sound | {file: "x"},
        sound | {file: sound[file] | {tensor: 7}},
        sound | {file: sound[file] | {tensor: "0" * 63}},
    ):
        write_json(sums, damaged)
        refuse(folder, str(sums), "has no sha256 sum", file, "convert the model again")
    wrong = sound | {file: sound[file] | {tensor: "0" * 64}}
    write_json(sums, wrong)
    refuse(folder, file, f"tensor {tensor} is damaged", "0000000000000000")
    sums.write_text("{")
    refuse(folder, str(sums), "cannot be read as JSON")
    sums.unlink()
    refuse(folder, f"{folder} has packed weights and no checksums.json", "convert the model again")


def test_folder_that_is_not_packed_has_nothing_to_verify(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random("hf", tmp_path, tiny_config, seed=1)
    assert verify_checkpoint(tmp_path) is None
