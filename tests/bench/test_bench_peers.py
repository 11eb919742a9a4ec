"""A peer must agree before anything is timed, and then stands beside the engine."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mixtral.bench.contender import MixtralContender, Room
from mixtral.bench.gate import Peer, check_agreement, check_rounding, gate_prompt, record_answer
from mixtral.bench.peer import TransformersContender, fuse_weights, share_weights
from mixtral.bench.probes import Prober
from mixtral.bench.session import measure_steps
from mixtral.errors import EngineError, UnsupportedError
from mixtral.model import CpuTransformer, LanguageModel, Transformer
from mixtral.random_weights import random_tensors
from tests.bench.bench_for_tests import CONFIG, contender, needs_library, options, tiny_model

PROMPT = gate_prompt(vocab_size=CONFIG.vocab_size, max_tokens=64)


def answer_of(model: LanguageModel) -> Any:
    return record_answer(contender(model), PROMPT)


def test_gate_refuses_a_peer_with_other_weights() -> None:
    answer = answer_of(tiny_model())
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(answer, contender(tiny_model(seed=1)))
    assert check_agreement(answer, contender(tiny_model())).passes


@pytest.mark.parametrize("format_name", ["q4_0", "q8_0"])
def test_even_the_coarsest_gate_refuses_other_weights(format_name: str) -> None:
    answer = answer_of(tiny_model())
    with pytest.raises(EngineError, match="nothing was timed"):
        check_agreement(answer, contender(tiny_model(seed=1), format_name))


def test_gate_refuses_logits_that_are_not_numbers() -> None:
    answer = answer_of(tiny_model())
    answer = dataclasses.replace(answer, logits=answer.logits * float("nan"))
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(answer, contender(tiny_model()))


def test_a_peer_with_rounded_weights_must_have_ours() -> None:
    answer = answer_of(tiny_model())
    generator = torch.Generator().manual_seed(0)
    rounded = (
        (name, tensor + 0.05 * tensor.std() * torch.randn(tensor.shape, generator=generator))
        for name, tensor in random_tensors(CONFIG, dtype=torch.float32)
        if tensor.dim() == 2
    )
    norms = [(n, t) for n, t in random_tensors(CONFIG, dtype=torch.float32) if t.dim() == 1]
    near = Transformer.from_tensors(CONFIG, [*rounded, *norms])
    assert check_rounding(answer, answer_of(near)) > 0.9
    with pytest.raises(EngineError, match="are not ours"):
        check_rounding(answer, answer_of(tiny_model(seed=1)))


def test_nothing_is_timed_when_the_peer_is_wrong(prober: Prober) -> None:
    def make_wrong(
        model: LanguageModel, room: Room, prompt: Sequence[int]
    ) -> tuple[LanguageModel, Peer]:
        tensors = random_tensors(model.config, dtype=torch.bfloat16, seed=7)
        other = Transformer.from_tensors(model.config, tensors)
        return model, Peer(contender=MixtralContender(other, room, format_name="bfloat16"))

    timed: list[None] = []
    with pytest.raises(EngineError, match="nothing was timed"):
        measure_steps(
            options("prefill"),
            peers=[make_wrong],
            prober=prober,
            on_repeat=lambda: timed.append(None),
        )
    assert not timed


def test_right_peers_get_results_and_a_ratio_each(prober: Prober) -> None:
    def make_same(
        model: LanguageModel, room: Room, prompt: Sequence[int]
    ) -> tuple[LanguageModel, Peer]:
        return model, Peer(contender=MixtralContender(model, room, format_name="bfloat16"))

    report = measure_steps(
        options("decode", batches=(2,)), peers=[make_same, make_same], prober=prober
    )
    assert len(report.results) == 3
    assert [(r.work, r.batch) for r in report.ratios] == [("decode", 2)] * 2
    assert report.ratios[0].tokens_per_s.min > 0
    assert [peer["logits_relative_error"] for peer in report.notes["peers"]] == [0, 0]


def test_transformers_agrees_on_shared_weights() -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    model = tiny_model()
    ours = contender(model)
    before = ours.logits([1, 2, 3])
    same, state = share_weights(model)
    peer = TransformersContender(CONFIG, state)
    assert same is model
    assert torch.equal(ours.logits([1, 2, 3]), before)
    assert check_agreement(answer_of(model), peer).relative_error < 1e-5
    assert peer.weights == ours.weights
    prompts = [[1, 2, 3], [4, 5, 6]]
    assert peer.run(prompts, 4).token_ids == ours.run(prompts, 4).token_ids
    w1 = model.get_parameter("model.layers.1.block_sparse_moe.experts.2.w1.weight")
    fused = state["model.layers.1.mlp.experts.gate_up_proj"]
    assert w1.data_ptr() == fused[2].data_ptr()


@needs_library
def test_the_cpp_model_shares_its_weights_with_transformers() -> None:
    tensors = random_tensors(CONFIG, dtype=torch.bfloat16)
    model = CpuTransformer(CONFIG, tensors)
    before = model.whole_logits([1, 2, 3])
    shared, state = share_weights(model)
    assert isinstance(shared, CpuTransformer)
    assert torch.equal(shared.whole_logits([1, 2, 3]), before)
    w3 = shared.tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    fused = state["model.layers.1.mlp.experts.gate_up_proj"]
    assert w3.data_ptr() == fused[2, CONFIG.intermediate_size :].data_ptr()


def test_fused_weights_are_the_shared_ones() -> None:
    shared = share_weights(tiny_model())[1]
    fused = fuse_weights(CONFIG, random_tensors(CONFIG, dtype=torch.float32))
    assert shared.keys() == fused.keys()
    assert all(torch.equal(shared[name], fused[name]) for name in shared)


def test_a_dense_model_has_no_peer() -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    dense = CONFIG.replace(num_local_experts=0, num_experts_per_tok=0)
    with pytest.raises(UnsupportedError, match="experts"):
        TransformersContender(dense, {"model.norm.weight": torch.ones(1)})
