"""GGUF: what we read, what we write, and what the ``gguf`` package says about both."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from mixtral.checkpoint.gguf import GgufQuantization, gguf_bytes, open_gguf, write_gguf
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.gguf_file.block_types import BLOCK_TYPES
from mixtral.model_source import find_model, is_hub_id
from tests.checkpoint.gguf_for_tests import Array, gguf_tensors, write_with_gguf
from tests.checkpoints_for_tests import random_tensors

Kind = gguf.GGMLQuantizationType


@pytest.fixture
def config(tiny_config: ModelConfig) -> ModelConfig:
    """A Mixtral whose rows can be cut into blocks of 32."""
    return tiny_config.replace(intermediate_size=64, rope_theta=1e6, rms_norm_eps=1e-5)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert found[name].is_contiguous(), name
        assert torch.equal(found[name], tensor), name


def write(
    path: Path, config: ModelConfig, quantization: GgufQuantization, seed: int = 1
) -> dict[str, Tensor]:
    tensors = random_tensors(config, seed=seed)
    write_gguf(path, config, tensors.items(), quantization=quantization, tokenizer_version=None)
    return tensors


@pytest.mark.parametrize("merged", [True, False])
def test_merged_and_single_experts_of_llama_cpp_are_read(
    merged: bool, config: ModelConfig, tmp_path: Path
) -> None:
    ours = random_tensors(config, seed=1)
    write_with_gguf(tmp_path / "m.gguf", config, gguf_tensors(config, ours, merged=merged))
    checkpoint = open_gguf(tmp_path / "m.gguf")
    assert checkpoint.config == config
    assert_same(dict(checkpoint.tensors()), ours)


@pytest.mark.parametrize("tied", [False, True])
def test_dense_model_and_tied_head_are_read(
    tied: bool, config: ModelConfig, tmp_path: Path
) -> None:
    config = config.replace(
        num_local_experts=0, num_experts_per_tok=0, tie_word_embeddings=tied, head_dim=16
    )
    ours = random_tensors(config, seed=2)
    write_with_gguf(tmp_path / "m.gguf", config, gguf_tensors(config, ours))
    checkpoint = open_gguf(tmp_path / "m.gguf")
    assert checkpoint.config == config
    assert_same(dict(checkpoint.tensors()), ours)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_local_experts": 0, "num_experts_per_tok": 0},
        {"sliding_window": 100, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "eos_token_id": 7},
        {"num_key_value_heads": 1, "head_dim": 6},
    ],
)
@pytest.mark.parametrize("quantization", ["f16", "bf16"])
def test_what_is_written_without_scales_comes_back_to_the_bit(
    quantization: GgufQuantization,
    changes: dict[str, float],
    config: ModelConfig,
    tmp_path: Path,
) -> None:
    dtype = {"f16": "float16", "bf16": "bfloat16"}[quantization]
    config = config.replace(dtype=dtype, **changes)
    wanted = write(tmp_path / "m.gguf", config, quantization)
    checkpoint = open_gguf(tmp_path / "m.gguf")
    assert checkpoint.config == config
    assert checkpoint.dtype == dtype
    assert_same(dict(checkpoint.tensors(dtype=getattr(torch, dtype))), wanted)
    own = dict(checkpoint.tensors())
    assert own["model.norm.weight"].dtype == torch.float32
    assert own["model.embed_tokens.weight"].dtype == getattr(torch, dtype)


def test_float32_weights_are_rounded_as_torch_rounds(config: ModelConfig, tmp_path: Path) -> None:
    wanted = write(tmp_path / "m.gguf", config, "bf16")
    found = dict(open_gguf(tmp_path / "m.gguf").tensors())
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    assert torch.equal(found[name], wanted[name].bfloat16())


@pytest.mark.parametrize(("quantization", "bound"), [("q8_0", 0.006), ("q4_0", 0.095)])
def test_blocks_with_scales_keep_the_error_of_their_format(
    quantization: GgufQuantization, bound: float, config: ModelConfig, tmp_path: Path
) -> None:
    wanted = write(tmp_path / "m.gguf", config, quantization)
    for name, tensor in open_gguf(tmp_path / "m.gguf").tensors(dtype=torch.float32):
        error = float((tensor - wanted[name]).norm() / wanted[name].norm())
        is_exact = len(tensor.shape) == 1 or name.endswith("gate.weight")
        is_head = name == "lm_head.weight"
        assert error <= (0 if is_exact else 0.006 if is_head else bound), name
        assert is_exact == (error == 0), name


def test_every_matrix_is_stored_as_the_table_says(config: ModelConfig, tmp_path: Path) -> None:
    for quantization, matrix, head in (("q4_0", Kind.Q4_0, Kind.Q8_0), ("f16", Kind.F16, Kind.F16)):
        write(tmp_path / f"{quantization}.gguf", config, quantization)  # type: ignore[arg-type]
        for tensor in gguf.GGUFReader(tmp_path / f"{quantization}.gguf").tensors:
            expected = matrix
            if "norm" in tensor.name or "gate_inp" in tensor.name:
                expected = Kind.F32
            elif tensor.name == "output.weight":
                expected = head
            assert tensor.tensor_type == expected, tensor.name


def test_gguf_package_reads_our_file_in_llama_cpps_arrangement(
    config: ModelConfig, tmp_path: Path
) -> None:
    ours = write(tmp_path / "m.gguf", config.replace(dtype="float16"), "f16")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    wanted = gguf_tensors(config, ours)
    assert [tensor.name for tensor in reader.tensors] == list(_in_our_order(wanted))
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data.astype(np.float32), wanted[tensor.name]), tensor.name
    size = (tmp_path / "m.gguf").stat().st_size
    assert size == gguf_bytes(config, "f16", None)


def _in_our_order(wanted: dict[str, Array]) -> list[str]:
    layers = sorted({name.split(".")[1] for name in wanted if name.startswith("blk.")})
    parts = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate_inp"
    parts += " ffn_gate_exps ffn_down_exps ffn_up_exps"
    names = [f"blk.{layer}.{part}.weight" for layer in layers for part in parts.split()]
    return ["token_embd.weight", *names, "output_norm.weight", "output.weight"]


def test_tensors_may_arrive_in_any_order(config: ModelConfig, tmp_path: Path) -> None:
    tensors = random_tensors(config, seed=4)
    for name, order in (("a", list(tensors)), ("b", sorted(tensors)[::-1])):
        write_gguf(
            tmp_path / name,
            config,
            ((tensor, tensors[tensor]) for tensor in order),
            quantization="q8_0",
            tokenizer_version=None,
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}


def random_blocks(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Return random bytes that are valid blocks: their float16 scales are small numbers."""
    kind, random = BLOCK_TYPES[name], np.random.default_rng(seed)
    rows, blocks = int(np.prod(shape[:-1])), shape[-1] // kind.weights
    raw = random.integers(0, 256, (rows * blocks, kind.num_bytes), dtype=np.uint8)
    for at in SCALES[name]:
        scales = random.uniform(-0.01, 0.01, (len(raw), 1)).astype(np.float16)
        raw[:, at : at + 2] = scales.view(np.uint8)
    return raw.reshape(*shape[:-1], blocks * kind.num_bytes)


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", SCALES)
def test_every_block_format_is_read_as_gguf_reads_it(
    name: str, merged: bool, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(
        hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64
    )
    kind = Kind[name]
    plain = gguf_tensors(config, random_tensors(config, seed=5), merged=merged)
    tensors, kinds, meant = dict(plain), {}, {}
    for seed, (stored, array) in enumerate(plain.items()):
        if len(array.shape) > 1 and "gate_inp" not in stored:
            tensors[stored] = random_blocks(name, array.shape, seed)
            kinds[stored] = kind
            meant[stored] = gguf.dequantize(tensors[stored], kind)
    write_with_gguf(tmp_path / "m.gguf", config, tensors, kinds)
    checkpoint = open_gguf(tmp_path / "m.gguf")
    assert checkpoint.dtype == "bfloat16"
    found = dict(checkpoint.tensors())
    again = gguf_tensors(config, found, merged=merged)
    for stored, wanted in (plain | meant).items():
        assert np.array_equal(again[stored], wanted), stored
    for ours, tensor in checkpoint.tensors(dtype=torch.bfloat16):
        assert torch.equal(tensor, found[ours].bfloat16()), ours


def test_table_of_block_types_is_that_of_the_gguf_package() -> None:
    for name, kind in BLOCK_TYPES.items():
        assert Kind[name] == kind.code
        assert gguf.GGML_QUANT_SIZES[Kind[name]] == (kind.weights, kind.num_bytes)
        assert kind.num_bytes % 2 == 0


def test_some_tensors_can_be_asked_for_by_name(config: ModelConfig, tmp_path: Path) -> None:
    wanted = write(tmp_path / "m.gguf", config.replace(dtype="float16"), "f16")
    names = ["lm_head.weight", "model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    found = list(open_gguf(tmp_path / "m.gguf").tensors(names=names, keep=False))
    assert [name for name, _ in found] == names
    assert_same(dict(found), {name: wanted[name] for name in names})


def test_plain_weights_are_views_of_the_file_and_writing_them_changes_nothing(
    config: ModelConfig, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write(path, config, "bf16")
    before = path.read_bytes()
    found = dict(open_gguf(path).tensors(dtype=torch.bfloat16))
    experts = [found[f"model.layers.0.block_sparse_moe.experts.{e}.w1.weight"] for e in (0, 1)]
    assert experts[1].data_ptr() - experts[0].data_ptr() == experts[0].nbytes
    experts[0].zero_()
    assert path.read_bytes() == before


def test_rows_that_are_no_multiple_of_32_are_stored_as_f16(
    config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config.replace(intermediate_size=40, dtype="float16")
    wanted = write(tmp_path / "m.gguf", config, "q4_0")
    assert "blk.0.ffn_down_exps.weight is stored as F16" in caplog.text
    assert "rows of 40 weights" in caplog.text
    found = dict(open_gguf(tmp_path / "m.gguf").tensors())
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    assert torch.equal(found[name], wanted[name])


def test_split_file_is_read_whole_from_any_part(config: ModelConfig, tmp_path: Path) -> None:
    ours = random_tensors(config, seed=6)
    tensors = list(gguf_tensors(config, ours).items())
    for part in range(3):
        write_with_gguf(
            tmp_path / f"m-{part + 1:05d}-of-00003.gguf",
            config,
            dict(tensors[part::3]),
            metadata={"split.count": 3},
        )
    for part in (1, 3):
        checkpoint = open_gguf(tmp_path / f"m-{part:05d}-of-00003.gguf")
        assert_same(dict(checkpoint.tensors()), ours)


def test_gguf_file_is_a_model_by_its_path(config: ModelConfig, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, config, "q8_0")
    source = find_model(str(path))
    assert (source.gguf, source.folder, source.is_random) == (path, None, False)
    assert source.config == config.replace(dtype="bfloat16")
    assert find_model("nano").gguf is None
    with pytest.raises(CheckpointError, match=r"name the file itself: .*model\.gguf"):
        find_model(str(tmp_path))
    assert not is_hub_id("models/missing.gguf")
    with pytest.raises(ConfigError, match="GGUF file that exists"):
        find_model("models/missing.gguf")


def test_finding_a_gguf_file_imports_neither_torch_nor_gguf(
    config: ModelConfig, tmp_path: Path
) -> None:
    write(tmp_path / "m.gguf", config, "f16")
    code = (
        "import sys; from mixtral.model_source import find_model; "
        f"print(find_model({str(tmp_path / 'm.gguf')!r}).config.hidden_size, "
        "[name for name in ('torch', 'gguf', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "32 []\n"
