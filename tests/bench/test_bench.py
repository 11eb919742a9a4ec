"""Benchmarks measure the engine itself, refuse a wrong peer, and write what the contract says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixtral.bench.contender import (
    MixtralContender,
    count_experts_per_step,
    count_operations,
    count_weight_bytes,
)
from mixtral.bench.load import measure_load
from mixtral.bench.peer import TransformersContender, fuse_weights, share_weights
from mixtral.bench.probes import Prober
from mixtral.bench.results import Report, Spread, write_json
from mixtral.bench.session import StepOptions, measure_steps
from mixtral.bench.steps import Subject, check_agreement, record_answer
from mixtral.bench.table import load_table, step_table
from mixtral.checkpoint import write_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError, EngineError, UnsupportedError
from mixtral.loading import random_tensors
from mixtral.model import Transformer

RESULT_FIELDS = {
    "work",
    "engine",
    "model",
    "layers",
    "format",
    "batch",
    "prompt_tokens",
    "new_tokens",
    "threads",
    "tokens_per_s",
    "step_ms",
    "weight_bytes_per_step",
    "bandwidth_fraction",
    "peak_fraction",
    "peak_rss_bytes",
    "probes",
}
CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=4,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def prober() -> Prober:
    return Prober(read_bytes=1 << 20, matrix_size=64)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads on tiny matrices wait for each other whenever the machine is busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    return Transformer.from_tensors(CONFIG, random_tensors(CONFIG, dtype=dtype, seed=seed))


def options(work: str, **changes: object) -> StepOptions:
    values = {"model": "random:nano", "layers": 1, "repeats": 2, "prompt_tokens": 8} | changes
    return StepOptions(work=work, new_tokens=2, threads=1, **values)  # type: ignore[arg-type]


def test_probes_are_positive_and_repeatable(prober: Prober) -> None:
    probes = prober.measure()
    assert probes.read_gb_per_s > 0
    assert probes.bf16_gflops > 0
    assert probes.int8_gops is None or probes.int8_gops > 0


@pytest.mark.parametrize("work", ["prefill", "decode"])
def test_steps_write_every_field_of_the_contract(work: str, prober: Prober, tmp_path: Path) -> None:
    report = measure_steps(options(work, batches=(1, 2)), prober=prober)
    write_json(tmp_path / "new" / "report.json", report.to_json())
    values = json.loads((tmp_path / "new" / "report.json").read_text())
    assert {"machine", "commit", "command", "date", "results"} <= set(values)
    assert {"cpu", "cores", "memory_bytes", "os", "python", "torch"} <= set(values["machine"])
    assert [result["batch"] for result in values["results"]] == [1, 2]
    for result in values["results"]:
        assert set(result) == RESULT_FIELDS
        assert set(result["probes"]) == {"read_gb_per_s", "int8_gops", "bf16_gflops"}
        for name in ("tokens_per_s", "step_ms"):
            spread = result[name]
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert result["bandwidth_fraction"] > 0
        assert result["peak_fraction"] > 0
        assert result["peak_rss_bytes"] > 1e6
        assert (result["work"], result["engine"], result["threads"]) == (work, "mixtral", 1)
    assert "mixtral" in set(step_table(report).columns[0].cells)


def test_decode_counts_each_step_and_sequence(prober: Prober) -> None:
    contender = MixtralContender(tiny_model(), max_batch=3, max_tokens=32)
    run = contender.run([[1, 2, 3], [4, 5, 6], [7, 8, 9]], num_decode_steps=4)
    assert len(run.decode_s) == 4
    assert [len(answer) for answer in run.token_ids] == [5, 5, 5]


def test_experts_per_step_are_those_the_router_chose() -> None:
    model = tiny_model()
    prompts = [[1, 2, 3], [4, 5, 6]]
    prefill, decode = count_experts_per_step(model, prompts, [[7, 8], [9, 10]])
    layers, chosen = CONFIG.num_hidden_layers, CONFIG.num_experts_per_tok
    assert layers * chosen <= decode <= layers * 2 * chosen
    assert decode <= prefill <= layers * CONFIG.num_experts
    alone = count_experts_per_step(model, prompts[:1], [[7, 8]])[1]
    assert alone == layers * chosen


def test_weight_bytes_of_all_experts_are_the_model_without_its_embedding() -> None:
    model = tiny_model()
    stored = sum(p.nbytes for n, p in model.named_parameters() if "embed_tokens" not in n)
    everything = CONFIG.num_hidden_layers * CONFIG.num_experts
    assert count_weight_bytes(CONFIG, everything, 4) == stored


def test_operations_of_a_prompt_are_those_of_its_matrices() -> None:
    matrices = sum(
        p.numel()
        for n, p in tiny_model().named_parameters()
        if "experts" not in n and "embed" not in n and "lm_head" not in n
    )
    matrices += CONFIG.num_hidden_layers * 2 * CONFIG.num_expert_parameters
    head = CONFIG.vocab_size * CONFIG.hidden_size
    # 3 tokens see 1 + 2 + 3 positions, each for a score and for a sum.
    attention = CONFIG.num_hidden_layers * 2 * 6 * CONFIG.num_attention_heads * CONFIG.head_dim
    counted = count_operations(CONFIG, batch=2, new_tokens=3, context_tokens=3)
    assert counted == 2 * 2 * (3 * matrices + head + attention)


def test_gate_refuses_a_peer_with_other_weights() -> None:
    model = tiny_model()
    answer = record_answer(
        Subject.of(model, name="tiny"),
        MixtralContender(model, max_batch=1, max_tokens=64),
        max_tokens=64,
    )
    wrong = MixtralContender(tiny_model(seed=1), max_batch=1, max_tokens=64)
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(answer, wrong, torch.float32)
    same = MixtralContender(tiny_model(), max_batch=1, max_tokens=64)
    assert check_agreement(answer, same, torch.float32).passes


def test_nothing_is_timed_when_the_peer_is_wrong(prober: Prober) -> None:
    def make_wrong(model: Transformer) -> MixtralContender:
        tensors = random_tensors(model.config, dtype=torch.bfloat16, seed=7)
        other = Transformer.from_tensors(model.config, tensors)
        return MixtralContender(other, max_batch=1, max_tokens=64)

    timed: list[None] = []
    with pytest.raises(EngineError, match="nothing was timed"):
        measure_steps(
            options("prefill"),
            make_peer=make_wrong,
            prober=prober,
            on_repeat=lambda: timed.append(None),
        )
    assert not timed


def test_a_right_peer_gets_results_and_ratios(prober: Prober) -> None:
    def make_same(model: Transformer) -> MixtralContender:
        return MixtralContender(model, max_batch=2, max_tokens=64)

    report = measure_steps(options("decode", batches=(2,)), make_peer=make_same, prober=prober)
    assert len(report.results) == 2
    assert [(r.work, r.batch) for r in report.ratios] == [("decode", 2)]
    assert report.ratios[0].tokens_per_s.min > 0
    assert report.notes["peer"]["logits_relative_error"] == 0


def test_transformers_agrees_on_shared_weights() -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    model = tiny_model()
    ours = MixtralContender(model, max_batch=2, max_tokens=64)
    before = ours.logits([1, 2, 3])
    state = share_weights(model)
    peer = TransformersContender(CONFIG, state)
    assert torch.equal(ours.logits([1, 2, 3]), before)
    answer = record_answer(Subject.of(model, name="tiny"), ours, max_tokens=64)
    assert check_agreement(answer, peer, torch.float32).relative_error < 1e-5
    prompts = [[1, 2, 3], [4, 5, 6]]
    assert peer.run(prompts, 4).token_ids == ours.run(prompts, 4).token_ids
    w1 = model.get_parameter("model.layers.1.block_sparse_moe.experts.2.w1.weight")
    fused = state["model.layers.1.mlp.experts.gate_up_proj"]
    assert w1.data_ptr() == fused[2].data_ptr()


def test_fused_weights_are_the_shared_ones() -> None:
    shared = share_weights(tiny_model())
    fused = fuse_weights(CONFIG, random_tensors(CONFIG, dtype=torch.float32))
    assert shared.keys() == fused.keys()
    assert all(torch.equal(shared[name], fused[name]) for name in shared)


def test_a_dense_model_has_no_peer() -> None:
    pytest.importorskip("transformers", minversion="5", reason="the peer is not installed")
    dense = CONFIG.replace(num_local_experts=0, num_experts_per_tok=0)
    with pytest.raises(UnsupportedError, match="experts"):
        TransformersContender(dense, {"model.norm.weight": torch.ones(1)})


def test_load_is_measured_in_a_process_of_its_own(prober: Prober, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tensors = random_tensors(CONFIG, dtype=torch.bfloat16)
    write_checkpoint(folder, CONFIG, tensors, layout="hf")
    result = measure_load(folder, prober, name="tiny", repeats=1, threads=1, prompt_tokens=4)
    report = Report(results=[result], notes={"repeats": 1})
    values = report.to_json()["results"][0]
    assert set(values) == RESULT_FIELDS | {"load"}
    stored = 2 * CONFIG.num_parameters
    assert values["load"]["checkpoint_bytes"] == values["weight_bytes_per_step"] == stored
    assert values["load"]["page_cache"] == "warm"
    assert values["load"]["first_token_s"]["min"] >= values["load"]["construct_s"]["min"] > 0
    assert load_table(report).row_count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": ()}, "batch is 0"),
        ({"batches": (1, 0)}, "batch is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
    ],
)
def test_wrong_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options("decode", **changes)


def test_more_tokens_than_the_context_are_refused_before_loading() -> None:
    with pytest.raises(ConfigError, match="2048"):
        measure_steps(options("prefill", prompt_tokens=4000))


def test_a_spread_is_median_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, min=1.0, max=3.0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
