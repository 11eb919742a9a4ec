"""Tiny runs: data, a checkpoint to start from, and a recipe as keyword arguments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtral.checkpoint import write_checkpoint
from tests.models_for_tests import tiny_model

COLOURS = ("red", "green", "blue", "black", "white", "yellow", "brown", "grey")
THINGS = ("sky", "grass", "sea", "night", "snow", "sun", "earth", "fog")


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


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the 32,768 words of the v3 tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "start"
    model = tiny_model(vocab_size=32768)
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return folder


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    pairs = zip(THINGS * 4, COLOURS * 4, strict=True)
    records = [
        {"messages": [user(f"Which colour has the {thing} {i}?"), assistant(colour)]}
        for i, (thing, colour) in enumerate(pairs)
    ]
    return write_records(tmp_path / "talk.jsonl", records)


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    records = [
        {"messages": [user(f"Say yes, number {i}.")], "chosen": "yes", "rejected": "no"}
        for i in range(24)
    ]
    return write_records(tmp_path / "pairs.jsonl", records)


@pytest.fixture
def values(tmp_path: Path, start: Path) -> dict[str, Any]:
    return {
        "output": str(tmp_path / "run"),
        "init_from": str(start),
        "dtype": "float32",
        "device": "cpu",
        "max_steps": 6,
        "tokens_per_step": 128,
        "max_seq_len": 64,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "eval_every": 3,
        "checkpoint_every": 2,
        "log_every": 1,
        "valid_fraction": 0.2,
        "tensorboard": False,
    }
