"""Configs that lie, and folders that two processes want."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral import CheckpointError, ConfigError, Error, ModelConfig, UnsupportedError
from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.folder_lock import FolderLock
from tests.checkpoints_for_tests import random_tensors, write_random

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    num_local_experts=4,
    num_experts_per_tok=2,
    dtype="float32",
)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("num_hidden_layers", 3_000_000, CheckpointError),
        ("num_local_experts", 10**9, CheckpointError),
        ("rope_scaling", "linear", ConfigError),
        ("rope_parameters", [1], ConfigError),
        ("quantization_config", "x", ConfigError),
        ("eos_token_id", [], ConfigError),
        ("eos_token_id", 64, ConfigError),
        ("rope_theta", 10**400, ConfigError),
        ("tie_word_embeddings", "no", ConfigError),
        ("architectures", ["LlamaForCausalLM"], UnsupportedError),
    ],
)
def test_config_that_lies_is_refused_with_its_file(
    tmp_path: Path, field: str, value: Any, kind: type[Error]
) -> None:
    write_random("hf", tmp_path, CONFIG, 0)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(kind, match=rf"config\.json.*{field}"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("moe", [1]), ("sliding_window", "a"), ("max_seq_len", "a")]
)
def test_params_that_lie_are_refused_with_their_file(
    tmp_path: Path, field: str, value: Any
) -> None:
    write_random("consolidated", tmp_path, CONFIG, 0)
    file = tmp_path / "params.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match=r"params\.json: "):
        open_checkpoint(tmp_path)


def write(target: Path) -> None:
    tensors: dict[str, torch.Tensor] = random_tensors(CONFIG, 0)
    write_checkpoint(target, CONFIG, tensors.items(), layout="hf")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".model.0123abcd.partial"
    leftover.mkdir()
    (leftover / "1.safetensors").write_bytes(b"half")
    other = tmp_path / ".model.backup.partial"
    other.mkdir()
    write(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "model"]


def test_second_writer_of_a_target_is_refused(tmp_path: Path) -> None:
    staging = tmp_path / ".model.0123abcd.partial"
    staging.mkdir()
    lock = FolderLock(staging)
    with pytest.raises(CheckpointError, match="another process is writing"):
        write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == [staging]
    lock.release()
    write(tmp_path / "model")
