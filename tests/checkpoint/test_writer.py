"""What is written reads back bit for bit, and appears whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mixtral.checkpoint import convert, open_checkpoint, write_checkpoint
from mixtral.checkpoint.writer import WrittenLayout
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from tests.checkpoints_for_tests import (
    LAYOUTS,
    consolidated,
    mistral_params,
    random_tensors,
    write_random,
)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("written", ["hf", "consolidated"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_conversion_is_bit_identical(
    layout: str, written: WrittenLayout, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(dtype="bfloat16", rope_theta=1e4)
    wanted = write_random(layout, tmp_path / "a", config, seed=1)
    convert(tmp_path / "a", tmp_path / "b", layout=written)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.layout == written
    assert checkpoint.config.replace(max_position_embeddings=512) == config
    assert_same(dict(checkpoint.tensors()), wanted)
    convert(tmp_path / "b", tmp_path / "c", layout="hf")
    assert_same(dict(open_checkpoint(tmp_path / "c").tensors()), wanted)


@pytest.mark.parametrize("written", ["hf", "consolidated"])
def test_dense_conversion_is_bit_identical(
    written: WrittenLayout, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(num_local_experts=0, num_experts_per_tok=0, sliding_window=128)
    wanted = write_random("hf", tmp_path / "a", config, seed=2)
    convert(tmp_path / "a", tmp_path / "b", layout=written)
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.config.sliding_window == 128
    assert checkpoint.config.is_dense
    assert_same(dict(checkpoint.tensors()), wanted)


def test_end_token_that_params_json_cannot_hold_is_said(
    tiny_config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = random_tensors(tiny_config, seed=3)
    for n, eos in enumerate((2, 95)):
        config = tiny_config.replace(eos_token_id=eos)
        write_checkpoint(tmp_path / f"hf{n}", config, tensors.items(), layout="hf")
        write_checkpoint(tmp_path / f"mistral{n}", config, tensors.items(), layout="consolidated")
        said = "no word for bos_token_id 1 and eos_token_id 95" in caplog.text
        assert said == (eos == 95)


def test_consolidated_file_is_mistrals(tiny_config: ModelConfig, tmp_path: Path) -> None:
    wanted = write_random("hf", tmp_path / "a", tiny_config, seed=3)
    convert(tmp_path / "a", tmp_path / "b", layout="consolidated")
    written = load_file(tmp_path / "b" / "consolidated.safetensors")
    assert_same(written, consolidated(tiny_config, wanted))
    params = json.loads((tmp_path / "b" / "params.json").read_text())
    assert params.items() >= mistral_params(tiny_config).items()


def test_hugging_face_shards_are_read_by_transformers(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    wanted = random_tensors(tiny_config, seed=4)
    target = tmp_path / "b"
    write_checkpoint(target, tiny_config, wanted.items(), layout="hf", max_shard_bytes=20_000)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(path.name for path in target.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        with safe_open(target / file, "pt") as opened:
            held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            assert opened.metadata() == {"format": "pt"}
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 20_000
    model = transformers.MixtralForCausalLM.from_pretrained(target)
    model.save_pretrained(tmp_path / "c")
    assert_same(dict(open_checkpoint(tmp_path / "c").tensors()), wanted)
    assert_same(dict(open_checkpoint(target).tensors()), wanted)


def test_tied_head_is_left_out_or_copied(tiny_config: ModelConfig, tmp_path: Path) -> None:
    config = tiny_config.replace(tie_word_embeddings=True)
    wanted = random_tensors(config, seed=5)
    given = wanted | {"lm_head.weight": wanted["model.embed_tokens.weight"]}
    write_checkpoint(tmp_path / "hf", config, given.items(), layout="hf")
    assert_same(dict(open_checkpoint(tmp_path / "hf").tensors()), wanted)
    convert(tmp_path / "hf", tmp_path / "mistral", layout="consolidated")
    assert_same(dict(open_checkpoint(tmp_path / "mistral").tensors()), given)


def test_conversion_of_type_is_written(tiny_config: ModelConfig, tmp_path: Path) -> None:
    wanted = write_random("consolidated", tmp_path / "a", tiny_config, seed=6)
    convert(tmp_path / "a", tmp_path / "b", layout="hf", dtype=torch.float16)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == "float16"
    checkpoint = open_checkpoint(tmp_path / "b")
    assert checkpoint.dtype == "float16"
    assert_same(dict(checkpoint.tensors()), {n: t.half() for n, t in wanted.items()})


def test_first_tensor_is_aligned_and_order_is_kept(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_config, seed=7)
    order = sorted(tensors, reverse=True)
    pairs = ((name, tensors[name]) for name in order)
    write_checkpoint(tmp_path / "b", tiny_config, pairs, layout="hf")
    found = list(open_checkpoint(tmp_path / "b").tensors())
    assert [name for name, _ in found] == order
    assert found[0][1].data_ptr() % 64 == 0


def test_tokenizer_files_travel_along(tiny_config: ModelConfig, tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    write_random("hf", source, tiny_config, seed=8)
    for name in ("tokenizer.model.v3", "tokenizer.json", "generation_config.json", "README.md"):
        (source / name).write_text(name)
    convert(source, target, layout="consolidated")
    assert sorted(path.name for path in target.iterdir()) == [
        "consolidated.safetensors",
        "generation_config.json",
        "params.json",
        "tokenizer.json",
        "tokenizer.model.v3",
    ]


def test_progress_counts_every_byte(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_random("hf", tmp_path / "a", tiny_config, seed=9)
    counts: list[int] = []
    convert(tmp_path / "a", tmp_path / "b", layout="consolidated", on_bytes=counts.append)
    assert sum(counts) == open_checkpoint(tmp_path / "a").num_bytes


def fail_to_write(
    folder: Path, config: ModelConfig, tensors: dict[str, Tensor], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        write_checkpoint(folder, config, tensors.items(), layout="hf")
    assert list(folder.parent.iterdir()) == []


def test_wrong_tensors_are_refused_and_nothing_is_left(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_config, seed=10)
    norm, target = "model.norm.weight", tmp_path / "b"
    fail_to_write(target, tiny_config, tensors | {"x": torch.ones(2)}, "x does not belong")
    fail_to_write(target, tiny_config, tensors | {norm: torch.ones(2)}, r"shape \[2\]")
    fail_to_write(target, tiny_config, tensors | {norm: torch.ones(32).int()}, "int32")
    del tensors[norm]
    fail_to_write(target, tiny_config, tensors, r"lacks 1 tensor: model\.norm\.weight")
    twice = [*tensors.items(), *tensors.items()]
    with pytest.raises(CheckpointError, match="given twice"):
        write_checkpoint(target, tiny_config, twice, layout="hf")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_nothing(
    error: type[BaseException], tiny_config: ModelConfig, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_config, seed=11)

    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield from list(tensors.items())[:5]
        raise error

    with pytest.raises(error):
        write_checkpoint(tmp_path / "b", tiny_config, interrupted(), layout="hf")
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import sys, time
from pathlib import Path
from mixtral.checkpoint import open_checkpoint, write_checkpoint
checkpoint = open_checkpoint(Path(sys.argv[1]))
def slow():
    pairs = list(checkpoint.tensors())
    yield from pairs[:-1]
    print("now", flush=True)
    time.sleep(60)
write_checkpoint(Path(sys.argv[2]), checkpoint.config, slow(), layout="hf", max_shard_bytes=20_000)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_killed_writer_leaves_nothing_that_loads(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_random("hf", tmp_path / "a", tiny_config, seed=12)
    target = tmp_path / "out" / "b"
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "a"), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    assert not target.exists()
    (left,) = target.parent.iterdir()
    with pytest.raises(CheckpointError):
        open_checkpoint(left)
    convert(tmp_path / "a", target, layout="hf")
    open_checkpoint(target)


def test_target_in_use_is_refused(tiny_config: ModelConfig, tmp_path: Path) -> None:
    source = tmp_path / "a"
    write_random("hf", source, tiny_config, seed=13)
    before = sorted(source.iterdir())
    for target in (source, source / "config.json"):
        with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
            convert(source, target, layout="hf")
    assert sorted(source.iterdir()) == before
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", layout="hf")
    open_checkpoint(tmp_path / "empty")


def test_full_disk_is_noticed_first(
    tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    tensors = random_tensors(tiny_config, seed=14)
    fail_to_write(tmp_path / "b", tiny_config, tensors, r"needs \d")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_that_fills_up_is_one_line(
    tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def open_full(path: Path, *args: str, **options: str) -> object:
        is_weights = path.suffix == ".safetensors"
        return opened(Path("/dev/full") if is_weights else path, *args, **options)

    monkeypatch.setattr(Path, "open", open_full)
    fail_to_write(tmp_path / "b", tiny_config, random_tensors(tiny_config, seed=15), "is full")


def test_memory_holds_one_tensor_at_a_time(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_config, seed=16)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def fresh() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for name in tensors:
            tensor = tensors[name].clone()
            alive.add(tensor)
            most = max(most, len(alive))
            yield name, tensor
            del tensor

    write_checkpoint(tmp_path / "b", tiny_config, fresh(), layout="hf")
    assert most <= 2
    assert_same(dict(open_checkpoint(tmp_path / "b").tensors()), tensors)
