"""A conversion that is stopped goes on or starts over, and memory holds a matrix, not a model."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint, quantize_checkpoint, write_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, Error
from mixtral.folder_lock import FolderLock
from mixtral.quantization import RECIPES
from tests.checkpoints_for_tests import random_tensors, write_random

INT4 = RECIPES["int4"]
SHARD_BYTES = 10_000
needs_signals = pytest.mark.skipif(os.name != "posix", reason="kills with a signal")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of one layer, small enough to pack in a moment, in several shards."""
    config = ModelConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        dtype="float32",
    )
    write_random("hf", tmp_path / "a", config, seed=0)
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    return tmp_path / "a"


def pack(source: Path, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
    quantize_checkpoint(source, target, INT4, max_shard_bytes=SHARD_BYTES, on_bytes=on_bytes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(count: int) -> Callable[[int], None]:
    """Return a progress function that acts as Ctrl-C would when so many tensors are written."""
    calls = 0

    def on_bytes(num_bytes: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            raise KeyboardInterrupt

    return on_bytes


def leftover(source: Path) -> Path:
    (found,) = (path for path in source.parent.iterdir() if path.name.endswith(".partial"))
    return found


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def stop(source: Path, target: Path) -> dict[str, int]:
    """Stop a conversion in its third shard; return the files of the two that are finished."""
    with pytest.raises(KeyboardInterrupt):
        pack(source, target, stop_after(11))
    assert not target.exists()
    with pytest.raises(Error):
        open_checkpoint(leftover(source))
    finished = written_at(leftover(source))
    assert len(finished) == 2
    return finished


def test_stopped_conversion_goes_on_without_redoing_finished_shards(
    source: Path, tmp_path: Path
) -> None:
    pack(source, tmp_path / "whole")
    finished = stop(source, tmp_path / "b")
    counts: list[int] = []
    pack(source, tmp_path / "b", counts.append)
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")
    assert finished.items() <= written_at(tmp_path / "b").items()
    assert sum(counts) == open_checkpoint(tmp_path / "b").num_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "whole"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "header", "unnoted"])
def test_finished_shard_that_is_wrong_is_redone(damage: str, source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "whole")
    stop(source, tmp_path / "b")
    first = min(leftover(source).glob("*.safetensors"))
    data = bytearray(first.read_bytes())
    if damage == "unnoted":
        progress = leftover(source) / "progress.json"
        progress.write_text(progress.read_text().replace(first.name, "other"))
    else:
        data[{"flipped": -1, "cut": -1, "header": 20}[damage]] ^= 1
        first.write_bytes(data[:-1] if damage == "cut" else data)
    pack(source, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")


def test_changed_source_or_recipe_starts_over(source: Path, tmp_path: Path) -> None:
    finished = stop(source, tmp_path / "b")
    shard = min(source.glob("*.safetensors"))
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "b", stop_after(11))
    assert not set(finished.values()) & set(written_at(leftover(source)).values())
    quantize_checkpoint(source, tmp_path / "b", RECIPES["int8"])
    assert open_checkpoint(tmp_path / "b").recipe == RECIPES["int8"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_failure_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def fail(num_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="is full"):
        pack(source, tmp_path / "b", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_full_disk_keeps_finished_shards_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_in_third_shard(num_bytes: int) -> None:
        if len(list(leftover(source).glob("*.safetensors"))) == 2:
            raise OSError(28, "No space left on device")

    pack(source, tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"is full.*the same command goes on"):
        pack(source, tmp_path / "b", fail_in_third_shard)
    finished = written_at(leftover(source))
    assert len(finished) == 2
    # An unfinished shard is of no use to the next attempt, and its bytes are needed.
    assert not list(leftover(source).glob("*.part"))

    with monkeypatch.context() as short:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        short.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(CheckpointError, match="Free some space"):
            pack(source, tmp_path / "b")
    assert written_at(leftover(source)) == finished
    pack(source, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")
    assert finished.items() <= written_at(tmp_path / "b").items()


@needs_signals
def test_two_conversions_to_one_target_do_not_mix(source: Path, tmp_path: Path) -> None:
    stop(source, tmp_path / "b")
    lock = FolderLock(leftover(source))
    with pytest.raises(CheckpointError, match="another process is writing"):
        pack(source, tmp_path / "b")
    lock.release()
    pack(source, tmp_path / "b")
    with pytest.raises(CheckpointError, match="is not an empty folder"):
        pack(source, tmp_path / "b")


# One interpreter for all rounds: it forks a child, which is killed by itself between two pieces of
# a file, or by the parent at any moment.
_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mixtral.checkpoint import open_checkpoint, quantize_checkpoint
from mixtral.errors import Error
from mixtral.quantization import RECIPES

torch.set_num_threads(1)
source, target, whole = (Path(path) for path in sys.argv[1:4])
max_shard_bytes = int(sys.argv[4])
draw = random.Random(0)

def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}

def pack(left):
    def on_bytes(count):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    quantize_checkpoint(
        source, target, RECIPES["int4"], max_shard_bytes=max_shard_bytes, on_bytes=on_bytes
    )

for number in range(10):
    is_timed = number % 2
    child = os.fork()
    if child == 0:
        pack(0 if is_timed else draw.randrange(1, 12))
        os._exit(0)
    if is_timed:
        time.sleep(draw.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if target.exists():
        break
    assert os.WIFSIGNALED(status)
    for found in target.parent.iterdir():
        try:
            open_checkpoint(found)
        except Error:
            print("killed", flush=True)
        else:  # Killed when everything was there, just before the folder got its name.
            if contents(found) != contents(whole):
                sys.exit(f"{found} loads")
if not target.exists():
    pack(0)
"""


@needs_signals
def test_killed_at_ten_moments_ends_with_the_same_bytes(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "whole")
    target = tmp_path / "out" / "b"
    folders = [str(source), str(target), str(tmp_path / "whole")]
    command = [sys.executable, "-c", _KILLED, *folders, str(SHARD_BYTES)]
    target.parent.mkdir()
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr
    assert "killed" in result.stdout
    assert contents(target) == contents(tmp_path / "whole")
    assert [path.name for path in target.parent.iterdir()] == ["b"]


_MEASURED = """
import sys
from pathlib import Path
import torch
from mixtral.checkpoint import quantize_checkpoint
from mixtral.kernels.quantize import quantize
from mixtral.quantization import RECIPES

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

torch.set_num_threads(1)
quantize(torch.ones(64, 256), "int8")
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), RECIPES["int8"])
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_holds_a_matrix_and_not_the_model(tmp_path: Path) -> None:
    config = ModelConfig(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        dtype="float32",
    )
    pool = torch.randn(2**21, generator=torch.Generator().manual_seed(0))
    shapes = random_tensors(config.replace(num_hidden_layers=1), seed=0)
    tensors = (
        (re.sub(r"layers\.0", f"layers.{layer}", name), pool[: tensor.numel()].view(tensor.shape))
        for layer in range(config.num_hidden_layers)
        for name, tensor in shapes.items()
        if layer == 0 or "layers" in name
    )
    source, target = tmp_path / "a", tmp_path / "b"
    try:
        write_checkpoint(source, config, tensors, layout="hf")
        command = [sys.executable, "-c", _MEASURED, str(source), str(target)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        size = config.weight_bytes()
        assert size > 300e6
        # What the quantiser of one matrix needs; a third of the model, an eighth of the bound.
        assert int(result.stdout) < 120e6
    finally:
        for file in [*source.glob("*.safetensors"), *target.glob("*.safetensors")]:
            file.unlink()
