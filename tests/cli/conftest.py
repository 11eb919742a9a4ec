"""A way to run the command line in this process, and a model small enough to load in no time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixtral.checkpoint import write_checkpoint
from mixtral.cli.main import app
from tests.models_for_tests import tiny_model

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*args: object, input: str | bytes = "") -> Result:
        return CliRunner().invoke(app, list(map(str, args)), input=input, prog_name="mixtral")

    return invoke


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint folder; with this vocabulary it gets the built-in v3 tokenizer."""
    model = tiny_model(vocab_size=32768, hidden_size=16, num_hidden_layers=1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return folder
