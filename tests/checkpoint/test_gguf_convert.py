"""A model goes from a folder to a GGUF file and back, with its tokenizer."""

import logging
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.checkpoint.gguf import convert_from_gguf, convert_to_gguf, open_gguf
from mixtral.config import ModelConfig
from mixtral.gguf_file import read_gguf
from mixtral.model_source import NANO_FOLDER
from mixtral.tokenizer import load_tokenizer
from mixtral.tokenizer.files import built_in_file
from mixtral.tokenizer.gguf_vocabulary import vocabulary_version
from tests.checkpoints_for_tests import random_tensors


@pytest.mark.parametrize("layout", ["hf", "consolidated"])
def test_nano_there_and_back_is_the_same_to_the_bit(layout: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "nano.gguf", tmp_path / "nano"
    convert_to_gguf(NANO_FOLDER, file, quantization="bf16")
    convert_from_gguf(file, folder, layout="hf" if layout == "hf" else "consolidated")
    nano, back = open_checkpoint(NANO_FOLDER), open_checkpoint(folder)
    tied = back.config.tie_word_embeddings
    assert tied == (layout == "hf")
    assert back.config.replace(tie_word_embeddings=True) == nano.config
    wanted, found = dict(nano.tensors()), dict(back.tensors())
    assert sorted(found) == sorted([*wanted, *([] if tied else ["lm_head.weight"])])
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert vocabulary_version(read_gguf(file)) == "v3"
    assert load_tokenizer(folder, vocab_size=32768).version == "v3"


def test_file_is_made_from_a_file_and_blocks_become_bfloat16(tmp_path: Path) -> None:
    convert_to_gguf(NANO_FOLDER, tmp_path / "a.gguf", quantization="q8_0")
    convert_to_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", quantization="q4_0")
    assert vocabulary_version(read_gguf(tmp_path / "b.gguf")) == "v3"
    convert_from_gguf(tmp_path / "b.gguf", tmp_path / "c", layout="hf")
    found = dict(open_checkpoint(tmp_path / "c").tensors())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    convert_from_gguf(tmp_path / "b.gguf", tmp_path / "d", layout="hf", dtype=torch.float32)
    exact = dict(open_checkpoint(tmp_path / "d").tensors())
    for name, tensor in exact.items():
        assert torch.equal(found[name], tensor.bfloat16()), name


def test_other_vocabulary_of_the_form_of_v1_is_not_replaced_by_the_built_in_one(
    tiny_config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config.replace(vocab_size=32000)
    tensors = random_tensors(config, seed=1)
    write_checkpoint(tmp_path / "m", config, tensors.items(), layout="hf")
    whole = built_in_file("v1").read_bytes()
    changed = whole.replace("\u2581Hello".encode(), "\u2581HELLO".encode())
    for content, has_vocabulary in ((whole, True), (changed, False)):
        (tmp_path / "m" / "tokenizer.model").write_bytes(content)
        file = tmp_path / f"{has_vocabulary}.gguf"
        convert_to_gguf(tmp_path / "m", file, quantization="f16")
        assert ("tokenizer.ggml.tokens" in read_gguf(file).metadata) == has_vocabulary
    assert "is not Mixtral's v1 vocabulary: id " in caplog.text
    assert "HELLO" in caplog.text


def test_model_without_tokenizer_becomes_a_file_without_one(
    tiny_config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = random_tensors(tiny_config, seed=1)
    write_checkpoint(tmp_path / "m", tiny_config, tensors.items(), layout="hf")
    with caplog.at_level(logging.WARNING):
        convert_to_gguf(tmp_path / "m", tmp_path / "m.gguf", quantization="f16")
    assert "has no tokenizer" in caplog.text
    assert open_gguf(tmp_path / "m.gguf").file.metadata["tokenizer.ggml.model"] == "no_vocab"
    convert_from_gguf(tmp_path / "m.gguf", tmp_path / "back", layout="hf")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
