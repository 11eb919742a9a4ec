"""``mixtral convert``: there and back again."""

import json
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint
from tests.cli.conftest import Run


def test_round_trip_gives_the_same_tensors(run: Run, tiny: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    first = run("convert", tiny, there, "--format", "consolidated")
    assert first.exit_code == 0
    assert first.stdout.startswith(f"wrote {there}: consolidated layout, 2 files")
    assert run("convert", there, back, "--format", "hf").exit_code == 0
    before, after = (dict(open_checkpoint(folder).tensors()) for folder in (tiny, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_dtype_and_random_weights(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "model"
    result = run(
        *("convert", "random:nano", target, "--layers", 1, "--format", "hf"),
        *("--dtype", "float16", "--json"),
    )
    values = json.loads(result.stdout)
    assert values["files"] == 2
    assert values["bytes"] == sum(file.stat().st_size for file in target.iterdir())
    assert open_checkpoint(target).dtype == "float16"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{tiny}", "{new}", "--format", "gguf"], "format is 'gguf'"),
        (["{tiny}", "{new}", "--format", "hf", "--dtype", "int8"], "dtype is 'int8'"),
        (["{tiny}", "{tiny}", "--format", "hf"], "is not an empty folder"),
        (["{new}", "{new}", "--format", "hf"], "model is"),
        (["{tiny}", "{new}"], "Missing option '--format'"),
    ],
)
def test_wrong_input_is_one_line(
    run: Run, tiny: Path, tmp_path: Path, arguments: list[str], part: str
) -> None:
    new = tmp_path / "new"
    result = run("convert", *(a.format(tiny=tiny, new=new) for a in arguments))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
    assert list(tmp_path.iterdir()) == []
