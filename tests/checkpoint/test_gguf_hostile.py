"""Damaged and hostile GGUF files end in one line; a failed write leaves nothing."""

import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from mixtral.checkpoint.gguf import open_gguf, write_gguf
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, Error, TokenizerError
from mixtral.gguf_file import container, read_gguf
from tests.checkpoint.gguf_for_tests import gguf_tensors, write_with_gguf
from tests.checkpoints_for_tests import random_tensors


@pytest.fixture
def config(tiny_config: ModelConfig) -> ModelConfig:
    return tiny_config.replace(intermediate_size=64, num_hidden_layers=1)


@pytest.fixture
def whole(config: ModelConfig, tmp_path: Path) -> Path:
    """A file that opens."""
    path = tmp_path / "whole.gguf"
    tensors = random_tensors(config, seed=1)
    write_gguf(path, config, tensors.items(), quantization="f16", tokenizer_version=None)
    open_gguf(path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        for _ in open_gguf(path).tensors():
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) in message
    return message


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (b"", "begins with b''"),
        (b"GGU", "is not a GGUF file"),
        (b"ggjt\3\0\0\0" + bytes(100), "begins with b'ggjt'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "is GGUF version 1; 2 and 3 are supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "is a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "is cut inside its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "is cut inside its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63), "is cut inside its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "has general.architecture None"),
    ],
)
def test_wrong_beginnings_are_named(begin: bytes, part: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(begin)
    assert part in refused(tmp_path / "m.gguf")


def test_header_without_end_is_refused_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_MAX_HEADER_BYTES", 1000)
    array = struct.pack("<QBIIQ", 1, 65, 9, 8, 1 << 50)
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array + bytes(100_000)
    (tmp_path / "m.gguf").write_bytes(raw)
    assert "its header would have more than 1000 bytes" in refused(tmp_path / "m.gguf")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "m.gguf")
    (tmp_path / "d.gguf").mkdir()
    assert "cannot be read" in refused(tmp_path / "d.gguf")


def test_file_cut_at_any_byte_is_refused(whole: Path) -> None:
    raw = whole.read_bytes()
    path = whole.with_name("cut.gguf")
    for size in [*range(0, 3000, 37), len(raw) // 2, len(raw) - 32 - 1]:
        path.write_bytes(raw[:size])
        refused(path)


def test_no_changed_byte_of_the_header_ends_in_a_traceback(whole: Path) -> None:
    raw = bytearray(whole.read_bytes())
    end = min(tensor.offset for tensor in read_gguf(whole).tensors.values())
    path, chance = whole.with_name("changed.gguf"), random.Random(0)
    for _ in range(300):
        changed = bytearray(raw)
        for _ in range(chance.choice((1, 1, 4))):
            changed[chance.randrange(end)] = chance.choice((0, 1, 127, 128, 255))
        path.write_bytes(changed)
        with suppress(CheckpointError):
            open_gguf(path)


def test_wrong_description_of_a_tensor_is_named(
    config: ModelConfig, whole: Path, tmp_path: Path
) -> None:
    raw = whole.read_bytes()
    name = b"output_norm.weight"
    at = raw.index(name) + len(name)  # axes uint32, size uint64, type uint32, offset uint64
    size, code, offset = at + 4, at + 12, at + 16
    path = tmp_path / "m.gguf"
    for place, value, part in (
        (at, struct.pack("<I", 9), "has 9 axes"),
        (size, struct.pack("<Q", 31), "tensor output_norm.weight has shape [31]; the metadata"),
        (size, struct.pack("<Q", 0), "no size may be 0"),
        (size, struct.pack("<Q", 1 << 62), "is cut"),
        (code, struct.pack("<I", 999), "has quant type 999; known are F32, F16"),
        (code, struct.pack("<I", 12), "must be a multiple of 256"),
        (offset, struct.pack("<Q", 0), "overlaps"),
        (offset, struct.pack("<Q", 1 << 50), "is cut"),
        (offset, struct.pack("<Q", 33), "no multiple of 32"),
    ):
        path.write_bytes(raw[:place] + value + raw[place + len(value) :])
        assert part in refused(path)


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"llama.block_count": None}, "lacks the field llama.block_count"),
        ({"llama.block_count": "two"}, "has 'two' as llama.block_count; it must be a whole number"),
        ({"llama.block_count": 1_000_000_000}, "has llama.block_count 1000000000, but there are"),
        ({"llama.block_count": 2}, "lacks 10 tensors: blk.1.attn_norm.weight"),
        ({"llama.block_count": 0}, "num_hidden_layers is 0"),
        ({"llama.expert_count": 1_000_000}, "has llama.expert_count 1000000; at most"),
        ({"llama.expert_count": 8}, "has shape [4, 32]; the metadata say [8, 32]"),
        ({"llama.expert_used_count": 9}, "num_experts_per_tok is 9"),
        ({"llama.embedding_length": 64}, "has shape [96, 32]; the metadata say [96, 64]"),
        ({"llama.attention.head_count": 0}, "num_attention_heads is 0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps is nan"),
        ({"llama.rope.freq_base": float("inf")}, "rope_theta is inf"),
        (
            {"llama.rope.dimension_count": 4},
            "has llama.rope.dimension_count 4 and heads of width 8",
        ),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "'yarn'"),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn'"),
        ({"llama.rope.scaling.factor": 4.0}, "rope.scaling.factor 4.0; supported is 1"),
        ({"llama.rope.scale_linear": 4.0}, "rope.scale_linear 4.0; supported is 1"),
        ({"llama.vocab_size": 100}, "has shape [96, 32]; the metadata say [100, 32]"),
        ({"tokenizer.ggml.bos_token_id": 96}, "bos_token_id is 96"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "has 'x' as"),
        ({"split.count": 3}, "is one of 3 parts"),
        ({"general.type": "adapter"}, "has general.type 'adapter'"),
    ],
)
def test_wrong_metadata_are_named(
    metadata: dict[str, Any], part: str, config: ModelConfig, tmp_path: Path
) -> None:
    tensors = gguf_tensors(config, random_tensors(config, seed=1))
    write_with_gguf(tmp_path / "m.gguf", config, tensors, metadata=metadata)
    assert part in refused(tmp_path / "m.gguf")


def test_other_architecture_is_refused_by_name(config: ModelConfig, tmp_path: Path) -> None:
    tensors = gguf_tensors(config, random_tensors(config, seed=1))
    write_with_gguf(tmp_path / "m.gguf", config, tensors, architecture="qwen3moe")
    assert "has general.architecture 'qwen3moe'; supported is 'llama'" in refused(
        tmp_path / "m.gguf"
    )


def test_missing_and_foreign_tensors_are_named(config: ModelConfig, tmp_path: Path) -> None:
    tensors = gguf_tensors(config, random_tensors(config, seed=1))
    lacking = {name: array for name, array in tensors.items() if "ffn_up" not in name}
    write_with_gguf(tmp_path / "a.gguf", config, lacking)
    assert "lacks 1 tensor: blk.0.ffn_up_exps.weight" in refused(tmp_path / "a.gguf")
    foreign = tensors | {"blk.0.attn_q.bias": tensors["blk.0.attn_norm.weight"]}
    write_with_gguf(tmp_path / "b.gguf", config, foreign)
    assert "has 1 tensor: blk.0.attn_q.bias, which no Mixtral" in refused(tmp_path / "b.gguf")


def test_weights_that_are_not_finite_are_named(config: ModelConfig, tmp_path: Path) -> None:
    tensors = dict(gguf_tensors(config, random_tensors(config, seed=1)))
    name = "blk.0.ffn_down_exps.weight"
    blocks = gguf.quantize(tensors[name], gguf.GGMLQuantizationType.Q8_0)
    blocks[1, 2, :2] = np.array([np.nan], np.float16).view(np.uint8)
    write_with_gguf(
        tmp_path / "m.gguf",
        config,
        tensors | {name: blocks},
        {name: gguf.GGMLQuantizationType.Q8_0},
    )
    assert f"tensor {name} has weights that are infinite or NaN" in refused(tmp_path / "m.gguf")


def test_split_file_without_its_parts_names_the_first(whole: Path, tmp_path: Path) -> None:
    shutil.copyfile(whole, tmp_path / "m-00002-of-00003.gguf")
    assert "m-00001-of-00003.gguf does not exist" in refused(tmp_path / "m-00002-of-00003.gguf")
    for part in (1, 3):
        shutil.copyfile(whole, tmp_path / f"m-{part:05d}-of-00003.gguf")
    assert "is also in m-00001-of-00003.gguf" in refused(tmp_path / "m-00001-of-00003.gguf")


Pairs = list[tuple[str, Tensor]]


def drop_last(pairs: Pairs) -> Pairs:
    return pairs[:-1]


def repeat_first(pairs: Pairs) -> Pairs:
    return [*pairs, pairs[0]]


def rename_first(pairs: Pairs) -> Pairs:
    return [("model.other", pairs[0][1]), *pairs[1:]]


def transpose_first(pairs: Pairs) -> Pairs:
    return [(pairs[0][0], pairs[0][1].t()), *pairs[1:]]


def put(value: float) -> Callable[[Pairs], Pairs]:
    def change(pairs: Pairs) -> Pairs:
        pairs[0][1][3, 4] = value
        return pairs

    return change


def make_whole_numbers(pairs: Pairs) -> Pairs:
    return [(pairs[0][0], pairs[0][1].to(torch.int32)), *pairs[1:]]


@pytest.mark.parametrize(
    ("change", "quantization", "part"),
    [
        (drop_last, "f16", "the model lacks 1 tensor: lm_head.weight"),
        (repeat_first, "f16", "model.embed_tokens.weight is given twice"),
        (rename_first, "f16", "model.other does not belong to this model"),
        (transpose_first, "f16", "has shape [32, 96]; the config says [96, 32]"),
        (make_whole_numbers, "f16", "has dtype torch.int32"),
        (put(1e6), "f16", "holds the value 1e+06, which float16"),
        (put(1e6), "q8_0", "holds the value 1e+06, which Q8_0"),
        (put(float("nan")), "q4_0", "holds the value nan"),
        (put(float("-inf")), "q8_0", "holds the value inf"),
        (put(0.0), "q5_0", "quantization is 'q5_0'; GGUF takes one of f16, bf16, q8_0, q4_0"),
    ],
)
def test_failed_write_leaves_nothing(
    change: Callable[[Pairs], Pairs],
    quantization: Any,
    part: str,
    config: ModelConfig,
    tmp_path: Path,
) -> None:
    pairs = change(list(random_tensors(config, seed=1).items()))
    with pytest.raises(CheckpointError) as caught:
        write_gguf(
            tmp_path / "m.gguf", config, pairs, quantization=quantization, tokenizer_version=None
        )
    assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing(config: ModelConfig, tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield from list(random_tensors(config, seed=1).items())[:5]
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(
            tmp_path / "m.gguf",
            config,
            interrupted(),
            quantization="f16",
            tokenizer_version=None,
        )
    assert list(tmp_path.iterdir()) == []


def test_existing_target_stays_as_it_is(config: ModelConfig, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="exists; choose another target"):
        write_gguf(path, config, [], quantization="f16", tokenizer_version=None)
    assert path.read_text() == "mine"


def test_leftover_of_a_killed_write_is_removed(config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / ".m.gguf.0123abcd.partial").write_bytes(b"GGUF")
    (tmp_path / ".other.gguf.0123abcd.partial").write_bytes(b"GGUF")
    tensors = random_tensors(config, seed=1).items()
    write_gguf(tmp_path / "m.gguf", config, tensors, quantization="f16", tokenizer_version=None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "m.gguf",
        ".other.gguf.0123abcd.partial",
    }


def test_full_disk_is_refused_before_a_byte_is_written(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"has 0.0 MB free; the file needs"):
        write_gguf(tmp_path / "m.gguf", config, [], quantization="f16", tokenizer_version=None)


def test_tokenizer_of_more_pieces_than_the_model_is_refused(
    config: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match="v1 tokenizer has 32000 pieces"):
        write_gguf(tmp_path / "m.gguf", config, [], quantization="f16", tokenizer_version="v1")
    assert issubclass(TokenizerError, Error)
