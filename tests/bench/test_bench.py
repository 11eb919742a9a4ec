"""Benchmarks measure the engine itself, refuse a wrong peer, and write what the contract says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral.bench.contender import Contender, MixtralContender, Room, stored_tensors
from mixtral.bench.counts import count_experts_per_step, count_operations
from mixtral.bench.gate import check_agreement, record_answer
from mixtral.bench.load import LoadOptions, measure_load
from mixtral.bench.moe import MoeOptions, measure_moe
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.peer import TransformersContender, fuse_weights, share_weights
from mixtral.bench.probes import Prober
from mixtral.bench.results import Report, Spread, write_json
from mixtral.bench.session import StepOptions, measure_steps
from mixtral.bench.steps import Workload
from mixtral.bench.table import load_table, step_table
from mixtral.bench.weights import StepWeights
from mixtral.checkpoint import quantize_checkpoint, write_checkpoint
from mixtral.checkpoint.gguf import convert_to_gguf
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError, EngineError, UnsupportedError
from mixtral.kernels.cpu import load_library
from mixtral.model import CpuTransformer, LanguageModel, Transformer
from mixtral.model_source import find_model
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_packed_tensors, random_tensors

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


ROOM = Room(sequences=3, tokens=64, slots=192)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    return Transformer.from_tensors(CONFIG, random_tensors(CONFIG, dtype=dtype, seed=seed))


def packed_model(recipe: str = "int4") -> CpuTransformer:
    return CpuTransformer(CONFIG, random_packed_tensors(CONFIG, RECIPES[recipe]))


def contender(model: LanguageModel, format_name: str = "float32") -> MixtralContender:
    return MixtralContender(model, ROOM, format_name=format_name)


def options(work: str, *, batches: tuple[int, ...] = (1,), **changes: Any) -> StepOptions:
    return StepOptions(
        model=ModelOptions(name="random:nano", layers=1, threads=1, **changes),
        workloads=[
            Workload(work=work, batch=batch, prompt_tokens=8, new_tokens=2)  # type: ignore[arg-type]
            for batch in batches
        ],
        repeats=2,
    )


needs_library = pytest.mark.skipif(load_library() is None, reason="the C++ library is not built")


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


def answer_of(model: LanguageModel) -> Any:
    return record_answer(contender(model), vocab_size=CONFIG.vocab_size, max_tokens=64)


def test_gate_refuses_a_peer_with_other_weights() -> None:
    answer = answer_of(tiny_model())
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(answer, contender(tiny_model(seed=1)))
    gate = check_agreement(answer, contender(tiny_model()))
    assert gate.passes
    assert gate.correlation == pytest.approx(1.0)


@pytest.mark.parametrize("format_name", ["q4_0", "q8_0"])
def test_even_the_coarsest_gate_refuses_other_weights(format_name: str) -> None:
    answer = answer_of(tiny_model())
    with pytest.raises(EngineError, match="nothing was timed"):
        check_agreement(answer, contender(tiny_model(seed=1), format_name))


def test_gate_refuses_logits_that_are_not_numbers() -> None:
    answer = answer_of(tiny_model())
    answer.logits.fill_(float("nan"))
    with pytest.raises(EngineError, match="disagree"):
        check_agreement(answer, contender(tiny_model()))


def test_nothing_is_timed_when_the_peer_is_wrong(prober: Prober) -> None:
    def make_wrong(model: LanguageModel, room: Room) -> tuple[LanguageModel, Contender]:
        tensors = random_tensors(model.config, dtype=torch.bfloat16, seed=7)
        other = Transformer.from_tensors(model.config, tensors)
        return model, MixtralContender(other, room, format_name="bfloat16")

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
    def make_same(model: LanguageModel, room: Room) -> tuple[LanguageModel, Contender]:
        return model, MixtralContender(model, room, format_name="bfloat16")

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny"
    write_checkpoint(path, CONFIG, random_tensors(CONFIG, dtype=torch.bfloat16), layout="hf")
    return path


def loaded(path: Path, prober: Prober, **changes: Any) -> dict[str, Any]:
    wanted = LoadOptions(name="tiny", repeats=1, prompt_tokens=4, **changes)
    result = measure_load(find_model(str(path)), prober, wanted)
    report = Report(results=[result], notes={"repeats": 1})
    assert load_table(report).row_count == 1
    values: dict[str, Any] = report.to_json()["results"][0]
    return values


def test_load_is_measured_in_a_process_of_its_own(prober: Prober, folder: Path) -> None:
    values = loaded(folder, prober)
    assert set(values) == RESULT_FIELDS | {"load"}
    stored = 2 * CONFIG.num_parameters
    load = values["load"]
    assert load["checkpoint_bytes"] == values["weight_bytes_per_step"] == stored
    assert load["page_cache"] == "warm"
    times = [load[name]["min"] for name in ("process_s", "first_token_s", "construct_s")]
    assert times == sorted(times, reverse=True)
    assert min(*times, load["prefill_s"]["min"]) > 0


@needs_library
def test_load_takes_packed_folders_gguf_files_and_recipes(
    prober: Prober, folder: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(folder, tmp_path / "packed", RECIPES["int4"])
    convert_to_gguf(folder, tmp_path / "m.gguf", quantization="q8_0")
    assert loaded(tmp_path / "packed", prober)["format"] == "int4"
    assert loaded(tmp_path / "m.gguf", prober)["format"] == "bfloat16"
    assert loaded(folder, prober, quantization="int3")["format"] == "int3"


def test_a_folder_that_cannot_be_loaded_is_an_error(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    with pytest.raises(CheckpointError):
        loaded(tmp_path, prober)


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
    work = [Workload(work="prefill", batch=1, prompt_tokens=4000)]
    with pytest.raises(ConfigError, match="2048"):
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
