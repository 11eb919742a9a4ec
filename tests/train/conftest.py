"""A tiny run: repeated random text, a checkpoint to start from, a recipe as keyword arguments."""

from pathlib import Path

import numpy as np
import pytest

from mixtral.checkpoint import write_checkpoint
from tests.models_for_tests import tiny_model


@pytest.fixture
def recipe_values(tmp_path: Path) -> dict[str, object]:
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(3, 500, 60), 60).astype(np.uint16)
    tokens[::60] = 1
    np.save(tmp_path / "tokens.npy", tokens)
    model = tiny_model()
    write_checkpoint(tmp_path / "start", model.config, model.named_parameters(), layout="hf")
    return {
        "output": str(tmp_path / "run"),
        "train_tokens": str(tmp_path / "tokens.npy"),
        "valid_tokens": str(tmp_path / "tokens.npy"),
        "init_from": str(tmp_path / "start"),
        "dtype": "float32",
        "max_steps": 8,
        "tokens_per_step": 120,
        "max_seq_len": 64,
        "warmup_steps": 2,
        "eval_every": 4,
        "checkpoint_every": 3,
        "log_every": 1,
        "tensorboard": False,
    }
