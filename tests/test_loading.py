"""What of a model is in memory, and whether it has room there, before anything is run."""

from pathlib import Path

import pytest
import torch

from mixtral.errors import UnsupportedError
from mixtral.loading import load_model, mapped_bytes
from mixtral.model_source import find_model
from tests.checkpoints_for_tests import write_random
from tests.models_for_tests import tiny_config


def test_only_weights_that_stay_as_they_are_stored_are_mapped(tmp_path: Path) -> None:
    write_random("hf", tmp_path, tiny_config(dtype="bfloat16"), seed=0)
    source = find_model(str(tmp_path))
    stored = load_model(source)
    assert mapped_bytes(source, stored) == stored.weight_bytes > 0
    assert mapped_bytes(source, load_model(source, dtype="bfloat16")) == stored.weight_bytes
    assert mapped_bytes(source, load_model(source, dtype="float32")) == 0
    random = find_model("random:nano", layers=1)
    assert mapped_bytes(random, stored) == 0


def test_stored_weights_are_checked_against_the_memory_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random("hf", tmp_path, tiny_config(), seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    with pytest.raises(UnsupportedError, match=r"0\.0 GB of cuda memory are free"):
        load_model(find_model(str(tmp_path)), device="cuda")
