"""llama.cpp as a peer: it runs our weights, agrees with them, and leaves no file behind."""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mixtral.bench.contender import Room
from mixtral.bench.gate import check_agreement, check_rounding, gate_prompt, record_answer
from mixtral.bench.llama_cpp import llama_cpp_peer, nearest_format
from mixtral.bench.probes import Prober
from mixtral.bench.session import measure_steps
from mixtral.checkpoint.gguf import GgufQuantization
from mixtral.errors import EngineError, UnsupportedError
from mixtral.model import CpuTransformer, LanguageModel
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_packed_tensors
from tests.bench.bench_for_tests import (
    CONFIG,
    ROOM,
    contender,
    needs_library,
    options,
    tiny_model,
)

PROMPT = gate_prompt(vocab_size=CONFIG.vocab_size, max_tokens=64)
needs_llama_cpp = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


def test_without_llama_cpp_the_comparison_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mixtral\[compare\]'") as found:
        llama_cpp_peer(tiny_model(), ROOM, PROMPT)
    assert "\n" not in str(found.value)


@needs_library
@pytest.mark.parametrize(
    ("recipe", "wanted"), [("int8", "q8_0"), ("int4", "q4_0"), ("int3", "q4_0")]
)
def test_the_peers_format_is_the_nearest_to_ours(recipe: str, wanted: str) -> None:
    # Wide enough that no row is padded, which would add bits.
    config = CONFIG.replace(hidden_size=128, intermediate_size=128, head_dim=32)
    packed = random_packed_tensors(config, RECIPES[recipe])
    assert nearest_format(CpuTransformer(config, packed)) == wanted
    assert nearest_format(tiny_model(dtype=torch.bfloat16)) == "bf16"


@needs_llama_cpp
@pytest.mark.parametrize("quantization", ["bf16", "q8_0", "q4_0"])
def test_it_computes_the_very_file_and_the_file_is_ours(
    quantization: GgufQuantization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model: LanguageModel = tiny_model(dtype=torch.bfloat16)
    same, peer = llama_cpp_peer(model, ROOM, PROMPT, quantization=quantization)
    assert same is model
    assert not list(tmp_path.iterdir())
    assert peer.reference is not None
    assert check_agreement(peer.reference, peer.contender).passes
    ours = record_answer(contender(model, "bfloat16"), PROMPT)
    assert check_rounding(ours, peer.reference) > 0.9
    assert peer.contender.weights.format == quantization
    wrong = contender(tiny_model(seed=1, dtype=torch.bfloat16), "bfloat16")
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(record_answer(wrong, PROMPT), peer.contender)


@needs_llama_cpp
def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    room = Room(sequences=40, tokens=40, slots=40 * 24)
    model = tiny_model(dtype=torch.bfloat16)
    peer = llama_cpp_peer(model, room, PROMPT, quantization="bf16")[1].contender
    # 40 prompts of 16 tokens are more than one batch of 512.
    prompts = [[1 + (7 * row + column) % 200 for column in range(16)] for row in range(40)]
    together = peer.run(prompts, 5)
    assert len(together.decode_s) == 5
    assert [len(answer) for answer in together.token_ids] == [6] * 40
    alone = [peer.run([prompt], 5).token_ids[0] for prompt in prompts[:3]]
    agreeing = sum(a == b for a, b in zip(alone, together.token_ids, strict=False))
    assert agreeing >= 2  # its sums depend on the batch, so a near tie may fall otherwise


@needs_llama_cpp
@needs_library
def test_it_stands_beside_packed_weights(prober: Prober) -> None:
    report = measure_steps(
        options("decode", batches=(1, 3), quantization="int8"),
        peers=[llama_cpp_peer],
        prober=prober,
    )
    assert [(r.engine, r.format, r.batch) for r in report.results] == [
        ("mixtral", "int8", 1),
        ("llama.cpp", "q8_0", 1),
        ("mixtral", "int8", 3),
        ("llama.cpp", "q8_0", 3),
    ]
    assert [ratio.peer for ratio in report.ratios] == ["llama.cpp"] * 2
    described = report.notes["peers"][0]
    assert described["logits_relative_error"] < described["allowed_relative_error"]
    assert described["rounding_correlation"] > 0.9
    assert "llama-cpp-python" in described["version"]
