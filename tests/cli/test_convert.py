"""``mixtral convert``: there and back again."""

import json
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint
from mixtral.gguf_file import read_gguf
from mixtral.kernels.quantize import quantize
from mixtral.quantization import RECIPES
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


def test_quantization_packs_and_packs_no_second_time(run: Run, tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "int3"
    result = run("convert", tiny, target, "--quantization", "int3", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["format"] == "hf"
    assert values["quantization"] == "int3"
    assert values["bytes"] == sum(file.stat().st_size for file in target.iterdir())
    checkpoint = open_checkpoint(target)
    assert checkpoint.recipe == RECIPES["int3"]
    assert checkpoint.recipe.origin is not None
    assert checkpoint.recipe.origin.source == "tiny"
    for wanted, part in (("int4", "is packed as int3 and int4 is wanted"), ("", "is packed as")):
        options = ("--quantization", wanted) if wanted else ("--format", "hf")
        refused = run("convert", target, tmp_path / "again", *options)
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1
        assert part in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["int3"]


def test_random_weights_are_packed_as_they_stream(run: Run, tmp_path: Path) -> None:
    shape = ("random:nano", "--layers", 1)
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    assert run("convert", *shape, plain, "--format", "hf").exit_code == 0
    result = run("convert", *shape, packed, "--quantization", "int8")
    assert result.stdout.startswith(f"wrote {packed}: int8, 3 files, ")
    name = "model.layers.0.self_attn.q_proj"
    ((_, weight),) = open_checkpoint(plain).tensors(names=[f"{name}.weight"])
    checkpoint = open_checkpoint(packed)
    ((_, found),) = checkpoint.tensors(names=[f"{name}.packed"])
    assert torch.equal(found, quantize(weight, "int8"))
    assert checkpoint.recipe is not None
    assert checkpoint.recipe.origin is not None
    assert checkpoint.recipe.origin.source == "random:nano"


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "BF16")]
)
def test_gguf_without_a_dtype_keeps_that_of_the_weights(
    run: Run, tiny: Path, tmp_path: Path, dtype: str, kind: str
) -> None:
    # params.json has no word for the dtype, only the weights themselves tell it.
    source, file = tmp_path / "source", tmp_path / "m.gguf"
    assert run("convert", tiny, source, "--format", "consolidated", "--dtype", dtype).exit_code == 0
    result = run("convert", source, file, "--format", "gguf")
    assert result.exit_code == 0
    assert read_gguf(file).tensors["blk.0.attn_q.weight"].kind.name == kind
    assert ("is stored in float32" in result.stderr) == (dtype == "float32")


def test_gguf_there_and_back(run: Run, tiny: Path, tmp_path: Path) -> None:
    file, back, packed = tmp_path / "tiny.gguf", tmp_path / "back", tmp_path / "packed"
    result = run("convert", tiny, file, "--format", "gguf", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"wrote {file}: gguf layout, 1 file, ")
    assert run("convert", file, back, "--format", "hf").exit_code == 0
    before, after = (dict(open_checkpoint(folder).tensors()) for folder in (tiny, back))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name].bfloat16(), after[name].bfloat16())
    assert run("convert", file, packed, "--quantization", "int4").exit_code == 0
    found = dict(open_checkpoint(packed).tensors())
    query = "model.layers.0.self_attn.q_proj"
    assert torch.equal(found[f"{query}.packed"], quantize(after[f"{query}.weight"], "int4"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{tiny}", "{new}", "--format", "onnx"], "format is 'onnx'"),
        (["{tiny}", "{new}", "--quantization", "int2"], "quantization is 'int2'"),
        (["{tiny}", "{new}", "--format", "gguf", "--quantization", "int4"], "f16, bf16, q8_0, q4"),
        (["{tiny}", "{new}", "--format", "gguf", "--dtype", "float32"], "dtype is 'float32'"),
        (
            ["{tiny}", "{new}", "--format", "consolidated", "--quantization", "int4"],
            "has no low-bit weights",
        ),
        (
            ["{tiny}", "{new}", "--quantization", "int4", "--dtype", "float16"],
            "give one of them",
        ),
        (["{tiny}", "{new}", "--format", "hf", "--dtype", "int8"], "dtype is 'int8'"),
        (["{tiny}", "{tiny}", "--format", "hf"], "is not an empty folder"),
        (["{new}", "{new}", "--format", "hf"], "model is"),
        (["{tiny}", "{new}"], "neither --format"),
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
