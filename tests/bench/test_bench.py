"""Benchmarks measure the engine itself, and write what the contract says."""

import json
from pathlib import Path

import pytest
import torch

from mixtral.bench.contender import stored_tensors
from mixtral.bench.counts import count_experts_per_step, count_operations
from mixtral.bench.load import LoadOptions
from mixtral.bench.moe import MoeOptions, measure_moe
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.probes import Prober
from mixtral.bench.results import Spread, write_json
from mixtral.bench.session import StepOptions, measure_steps
from mixtral.bench.steps import Workload
from mixtral.bench.table import step_table
from mixtral.bench.weights import StepWeights
from mixtral.checkpoint import quantize_checkpoint, write_checkpoint
from mixtral.checkpoint.gguf import convert_to_gguf
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.kernels.cpu import load_library
from mixtral.model import LanguageModel, Transformer
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_tensors
from tests.bench.bench_for_tests import (
    CONFIG,
    RESULT_FIELDS,
    contender,
    needs_library,
    options,
    packed_model,
    tiny_model,
)


def test_probes_are_positive_and_repeatable(prober: Prober) -> None:
    probes = prober.measure()
    assert probes.read_gb_per_s > 0
    assert probes.bf16_gflops > 0
    assert probes.int8_gops is None or probes.int8_gops > 0


@needs_library
def test_int8_probe_is_a_ceiling_of_torchs_own_product(prober: Prober) -> None:
    library = load_library()
    if library is None or ("vnni" not in library.level and "bf16" not in library.level):
        pytest.skip("this processor has no int8 instruction to probe")
    assert (prober.measure().int8_gops or 0) > 100


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
        assert result["format"] == "bfloat16"
        assert (result["work"], result["engine"], result["threads"]) == (work, "mixtral", 1)
    assert "mixtral" in set(step_table(report).columns[0].cells)


@needs_library
@pytest.mark.parametrize("recipe", ["int8", "int4", "int3"])
def test_low_bit_steps_stand_beside_the_int8_probe(recipe: str, prober: Prober) -> None:
    result = measure_steps(options("decode", quantization=recipe), prober=prober).results[0]
    assert result.format == recipe
    assert result.peak_fraction is not None
    operations = result.peak_fraction * (result.probes.int8_gops or 0) * 1e9
    assert operations > 0
    config = ModelConfig.preset("nano").replace(num_hidden_layers=1)
    packed = RECIPES[recipe].packed_bytes(config)
    assert result.weight_bytes_per_step < packed


def test_float32_has_no_ceiling_of_arithmetic(prober: Prober) -> None:
    result = measure_steps(options("decode", dtype="float32"), prober=prober).results[0]
    assert (result.format, result.peak_fraction) == ("float32", None)


@needs_library
def test_a_packed_folder_is_called_by_its_recipe(prober: Prober, tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "a", CONFIG, random_tensors(CONFIG, dtype=torch.bfloat16), layout="hf"
    )
    quantize_checkpoint(tmp_path / "a", tmp_path / "b", RECIPES["int3"])
    wanted = options("prefill")
    model = ModelOptions(name=str(tmp_path / "b"), threads=1)
    report = measure_steps(
        StepOptions(model=model, workloads=wanted.workloads, repeats=1), prober=prober
    )
    assert report.results[0].format == "int3"


@needs_library
def test_experts_alone_are_measured_per_number_of_tokens(prober: Prober) -> None:
    model = ModelOptions(name="random:nano", layers=1, quantization="int4", threads=1)
    report = measure_moe(MoeOptions(model=model, tokens=(1, 8), repeats=2), prober=prober)
    assert [(r.work, r.prompt_tokens) for r in report.results] == [("moe", 1), ("moe", 8)]
    one, eight = report.results
    config = ModelConfig.preset("nano")
    expert = RECIPES["int4"].packed_bytes(config)
    assert 0 < one.weight_bytes_per_step < eight.weight_bytes_per_step < expert
    assert eight.peak_fraction is not None
    done = eight.peak_fraction * (eight.probes.int8_gops or 0) * 1e9 * eight.step_ms.median / 1e3
    assert done == pytest.approx(2 * 8 * 2 * config.num_expert_parameters, rel=0.5)


def test_experts_of_a_type_that_the_library_lacks_are_refused(prober: Prober) -> None:
    model = ModelOptions(name="random:nano", layers=1, dtype="float32", threads=1)
    with pytest.raises(UnsupportedError, match="float32"):
        measure_moe(MoeOptions(model=model), prober=prober)


def test_decode_counts_each_step_and_sequence(prober: Prober) -> None:
    run = contender(tiny_model()).run([[1, 2, 3], [4, 5, 6], [7, 8, 9]], num_decode_steps=4)
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


def weights_of(model: LanguageModel) -> StepWeights:
    return contender(model).weights


def test_weight_bytes_of_all_experts_are_the_model_without_its_embedding() -> None:
    model = tiny_model()
    stored = sum(p.nbytes for n, p in model.named_parameters() if "embed_tokens" not in n)
    everything = CONFIG.num_hidden_layers * CONFIG.num_experts
    assert weights_of(model).step_bytes(everything) == stored
    expert = 4 * CONFIG.num_expert_parameters
    assert weights_of(model).step_bytes(everything - 1) == stored - expert


@needs_library
def test_packed_weights_count_as_they_are_stored() -> None:
    model = packed_model()
    stored = sum(t.nbytes for n, t in model.tensors.items() if "embed_tokens" not in n)
    everything = CONFIG.num_hidden_layers * CONFIG.num_experts
    assert weights_of(model).step_bytes(everything) == stored


def test_a_tied_head_is_read_whole() -> None:
    config = CONFIG.replace(tie_word_embeddings=True)
    model = Transformer.from_tensors(config, random_tensors(config, dtype=torch.float32))
    assert weights_of(model).step_bytes(0) == weights_of(tiny_model()).step_bytes(0)


def test_weights_of_all_layouts_are_told_apart_by_their_names(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "hf", CONFIG, random_tensors(CONFIG, dtype=torch.bfloat16), layout="hf"
    )
    convert_to_gguf(tmp_path / "hf", tmp_path / "m.gguf", quantization="bf16")
    from mixtral.gguf_file import read_gguf

    tensors = read_gguf(tmp_path / "m.gguf").tensors
    sizes = [(name, tensor.num_bytes) for name, tensor in tensors.items()]
    gguf = StepWeights.of(CONFIG, sizes, format_name="bf16")
    ours = weights_of(tiny_model(dtype=torch.bfloat16))
    small = sum(
        tensor.nbytes
        for name, tensor in stored_tensors(tiny_model(dtype=torch.bfloat16))
        if "norm" in name or "gate" in name
    )
    # Norms and router are float32 there.
    assert gguf.step_bytes(3) == ours.step_bytes(3) + small
    assert (gguf.peak, ours.peak) == ("bf16", None)


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


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="no work"):
        options("decode", batches=())
    with pytest.raises(ConfigError, match="batch is 0"):
        options("decode", batches=(1, 0))
    with pytest.raises(ConfigError, match="new_tokens is 0"):
        Workload(work="decode", batch=1, prompt_tokens=1, new_tokens=0)
    with pytest.raises(ConfigError, match="tokens is 0"):
        MoeOptions(model=ModelOptions(name="nano"), tokens=(8, 0))
    with pytest.raises(ConfigError, match="repeats is 0"):
        LoadOptions(name="nano", repeats=0)


def test_more_tokens_than_the_context_are_refused_before_loading() -> None:
    work = [Workload(work="prefill", batch=1, prompt_tokens=9000)]
    with pytest.raises(ConfigError, match="8192"):
        measure_steps(StepOptions(model=ModelOptions(name="random:nano"), workloads=work))


def test_a_spread_is_median_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, min=1.0, max=3.0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
