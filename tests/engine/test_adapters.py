"""Adapters served beside the weights: the merged model's answers, and nobody else's changed."""

from collections.abc import Callable, Sequence
from itertools import cycle

import pytest
import torch
from torch import Tensor

from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.config import EngineConfig, ModelConfig
from mixtral.engine import Engine
from mixtral.errors import CheckpointError
from mixtral.kernels.cpu import load_library
from mixtral.loading import unpacked_tensors
from mixtral.model import CpuTransformer, LanguageModel, TokenBatch, Transformer, init_weights
from mixtral.model.adapter import Adapter
from mixtral.quantization import RECIPES
from tests.adapters_for_tests import TARGETS, merged, random_adapter
from tests.engine.engine_for_tests import GREEDY, finish
from tests.models_for_tests import tiny_config, tiny_model

BLOCK = 16
DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0}
ODD = {"hidden_size": 72, "intermediate_size": 200, "num_local_experts": 5, "head_dim": 20}
IDS = [(7 * i + 3) % 512 for i in range(70)]
OTHER = [(11 * i + 5) % 512 for i in range(70)]
needs_library = pytest.mark.skipif(
    load_library() is None, reason="the C++ library is not built here"
)


def two_adapters(config: ModelConfig) -> list[Adapter]:
    """One on everything, with a rank of its own for every linear, and one on attention."""
    ranks = cycle([1, 5, 16, 17, 2, 33])
    return [
        random_adapter(config, rank=lambda name: next(ranks), seed=1),
        random_adapter(config, "attention", rank=lambda name: 4, scale=lambda name: 3.0, seed=2),
    ]


def model_pair(recipe: str | None, **changes: int) -> tuple[CpuTransformer, Transformer]:
    """Return a model in C++ and the same weights in PyTorch's float32, both with two adapters."""
    config = tiny_config(**changes)
    made = Transformer(config)
    init_weights(made, seed=0, std=0.05)
    weights = {name: value.bfloat16() for name, value in made.state_dict().items()}
    if recipe is not None:
        weights = dict(quantized_tensors(weights.items(), config, RECIPES[recipe]))
        config = packed_config(config)
    fast = CpuTransformer(config, weights.items(), exact=True)
    plain = ((name, t.float()) for name, t in unpacked_tensors(weights.items(), config))
    slow = Transformer.from_tensors(config, plain)
    for model in (fast, slow):
        model.set_adapters(two_adapters(config))
    return fast, slow


def errors(actual: Tensor, expected: Tensor) -> Tensor:
    """Relative error of each token's logits."""
    return (actual - expected).norm(dim=1) / expected.norm(dim=1)


def with_adapters(make: Callable[[], LanguageModel]) -> LanguageModel:
    model = make()
    model.set_adapters(two_adapters(model.config))
    return model


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "PyTorch": lambda: with_adapters(tiny_model),
    "C++ bfloat16": lambda: model_pair(None)[0],
    "C++ int4": lambda: model_pair("int4")[0],
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    if request.param != "PyTorch" and load_library() is None:
        pytest.skip("the C++ library is not built here")
    return MODELS[request.param]()


def make_engine(model: LanguageModel, *, num_blocks: int = 64, **settings: int) -> Engine:
    config = EngineConfig(num_blocks=num_blocks, block_size=BLOCK, **settings)
    return Engine(model, config, max_model_len=256)


def ask(engine: Engine, asked: Sequence[tuple[list[int], int | None]]) -> list[list[int]]:
    """Return the answers to prompts, each with its adapter, asked together."""
    return finish(engine, [engine.add(ids, GREEDY, adapter=adapter) for ids, adapter in asked])


@pytest.mark.parametrize("changes", [{}, DENSE])
@pytest.mark.parametrize("target", TARGETS)
def test_unmerged_logits_are_the_merged_ones_in_float32(
    target: str, changes: dict[str, int]
) -> None:
    model = tiny_model(**changes)
    if changes and target in ("router", "expert 3 of layer 0"):
        pytest.skip("a dense model has neither a router nor an expert 3")
    adapter = random_adapter(model.config, target)
    model.set_adapters([adapter])
    expected = merged(model, adapter).whole_logits(IDS)
    torch.testing.assert_close(model.whole_logits(IDS, 0), expected, rtol=1e-4, atol=1e-4)
    assert errors(model.whole_logits(IDS), expected).max() > 1e-2


@needs_library
@pytest.mark.parametrize("changes", [{}, DENSE, ODD], ids=["tiny", "dense", "odd widths"])
@pytest.mark.parametrize("recipe", [None, "int8", "int4", "int3"])
def test_logits_in_cpp_are_those_of_the_unpacked_base_with_the_adapter_merged(
    recipe: str | None, changes: dict[str, int]
) -> None:
    fast, slow = model_pair(recipe, **changes)
    for place, adapter in enumerate(two_adapters(slow.config)):
        expected = merged(slow, adapter).whole_logits(IDS)
        # The tolerances of the base without an adapter: what bfloat16 states and caches cost.
        limit = 2e-2 if recipe is None else 1e-2
        assert errors(fast.whole_logits(IDS, place), expected).median() < limit
        assert errors(fast.whole_logits(IDS), expected).median() > 5 * limit


@needs_library
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_merging_before_packing_moves_the_logits_no_further_than_packing_itself(
    recipe: str,
) -> None:
    config = tiny_config()
    base = Transformer(config)
    init_weights(base, seed=0, std=0.05)
    adapter = random_adapter(config, scale=lambda name: 0.3)

    def packed(model: Transformer) -> CpuTransformer:
        weights = ((name, value.bfloat16()) for name, value in model.state_dict().items())
        tensors = quantized_tensors(weights, config, RECIPES[recipe])
        return CpuTransformer(packed_config(config), tensors, exact=True)

    unmerged = packed(base)
    unmerged.set_adapters([adapter])
    exact = merged(base, adapter).whole_logits(IDS)
    cost = errors(packed(merged(base, adapter)).whole_logits(IDS), exact).median()
    assert errors(unmerged.whole_logits(IDS, 0), exact).median() < 1.5 * cost
    both = errors(unmerged.whole_logits(IDS, 0), packed(merged(base, adapter)).whole_logits(IDS))
    assert both.median() < 2.5 * cost


@needs_library
def test_adapted_router_sends_tokens_where_pytorch_sends_them() -> None:
    fast, slow = model_pair("int8")
    for model in (fast, slow):
        model.set_adapters([random_adapter(model.config, "router")])
    mine, theirs = fast.route(IDS, 0), slow.route(IDS, 0)
    assert (mine.expert_ids == theirs.expert_ids).float().mean() > 0.95
    assert (mine.expert_ids != fast.route(IDS).expert_ids).float().mean() > 0.05
    found = errors(mine.router_logits.flatten(1), theirs.router_logits.flatten(1))
    assert found.median() < 2e-2


@needs_library
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512", "avx512vnni", "avx512bf16"])
def test_every_level_has_the_adapters_sums(level: str) -> None:
    library = load_library()
    assert library is not None
    if level not in library.usable_levels:
        pytest.skip(f"{level} is not among the levels of this CPU: {library.usable_levels}")
    fast, slow = model_pair("int8", **ODD)
    usual = library.level
    library.force_level(level)
    try:
        assert errors(fast.whole_logits(IDS, 0), slow.whole_logits(IDS, 0)).median() < 1e-2
    finally:
        library.force_level(usual)


def lay_out(parts: Sequence[tuple[list[int], int, int, list[int], int | None]]) -> TokenBatch:
    """Tokens begin to end - 1 of some sequences, each with its block table and its adapter."""
    flat = [token for ids, begin, end, *_ in parts for token in ids[begin:end]]
    positions = [place for _, begin, end, *_ in parts for place in range(begin, end)]
    starts = [0]
    for _, begin, end, *_ in parts:
        starts.append(starts[-1] + end - begin)
    return TokenBatch(
        input_ids=torch.tensor(flat),
        positions=torch.tensor(positions),
        starts=starts,
        context_lens=[end for _, _, end, *_ in parts],
        block_tables=[table for *_, table, _ in parts],
        adapter_ids=[adapter for *_, adapter in parts],
    )


@needs_library
@pytest.mark.parametrize("recipe", [None, "int4"])
def test_one_step_of_base_and_adapters_gives_the_bits_of_each_alone(recipe: str | None) -> None:
    model, _ = model_pair(recipe)
    adapters = (None, 0, 1, 0)
    prompts = [IDS, OTHER, IDS, IDS]
    alone = [model.whole_logits(ids, a) for ids, a in zip(prompts, adapters, strict=True)]
    tables = [list(range(5 * i, 5 * i + 5)) for i in range(4)]
    rows = list(zip(prompts, tables, adapters, strict=True))
    for threads in (1, 3):
        model.num_threads = threads
        cache = model.new_cache(num_blocks=20, block_size=BLOCK)
        model.step(
            lay_out([(ids, 0, 40 + 3 * i, t, a) for i, (ids, t, a) in enumerate(rows)]), cache
        )
        for step in range(20):
            begins = [40 + 3 * i + step for i in range(4)]
            batch = lay_out(
                [(ids, b, b + 1, t, a) for b, (ids, t, a) in zip(begins, rows, strict=True)]
            )
            logits = model.step(batch, cache)
            for row, whole, begin in zip(logits, alone, begins, strict=True):
                assert torch.equal(row, whole[begin])


@needs_library
def test_what_lay_in_the_workspace_before_does_not_matter() -> None:
    model, _ = model_pair("int4", **ODD)
    expected = model.whole_logits(IDS, 0)
    model._adapters._workspace.fill(255)  # every float in it is NaN
    assert torch.equal(model.whole_logits(IDS, 0), expected)
    assert expected.isfinite().all()


@needs_library
def test_loaded_adapters_do_not_touch_who_has_none() -> None:
    model, _ = model_pair("int4")
    with_them = model.whole_logits(IDS)
    model.set_adapters([])
    assert torch.equal(model.whole_logits(IDS), with_them)


def test_batch_of_none_a_b_a_gives_each_the_answer_it_gets_alone(model: LanguageModel) -> None:
    asked = [(IDS[:30], None), (IDS[:30], 0), (OTHER[:9], 1), (IDS[:30], 1), (OTHER[:9], 0)]
    alone = [ask(make_engine(model), [one])[0] for one in asked]
    assert ask(make_engine(model), asked) == alone
    assert ask(make_engine(model, max_num_batched_tokens=16), asked) == alone
    assert len({tuple(answer) for answer in alone}) == len(asked)


def test_preempted_answers_with_adapters_are_undisturbed(model: LanguageModel) -> None:
    asked = [(IDS[:n], adapter) for n, adapter in ((30, 0), (20, None), (28, 1), (25, 0), (31, 1))]
    calm = ask(make_engine(model), asked)
    engine = make_engine(model, num_blocks=8)
    assert ask(engine, asked) == calm
    assert engine.num_preemptions > 0


def test_prefix_cache_serves_each_adapter_its_own_blocks_only(model: LanguageModel) -> None:
    asked = [(IDS, None), (IDS, 0), (IDS, 1)]
    expected = [ask(make_engine(model), [one])[0] for one in asked]
    engine = make_engine(model)
    for hits in (0, 64):  # 4 full blocks of 16 for the second of each
        for one, answer in zip(asked, expected, strict=True):
            before = engine.stats().prefix_hit_tokens
            assert ask(engine, [one]) == [answer]
            assert engine.stats().prefix_hit_tokens - before == hits


@pytest.mark.parametrize("enable_prefix_cache", [True, False])
def test_answers_to_one_prompt_share_the_blocks_of_their_adapter(enable_prefix_cache: bool) -> None:
    model = MODELS["PyTorch"]()
    engine = make_engine(model, enable_prefix_cache=enable_prefix_cache)
    leader = engine.add(IDS, GREEDY, adapter=1)
    follower = engine.add(IDS, GREEDY, adapter=1, leader_id=leader)
    first, second = finish(engine, [leader, follower])
    assert first == second == ask(make_engine(model), [(IDS, 1)])[0]
    assert engine.stats().prefix_hit_tokens == 64


def test_adapter_of_another_model_is_refused_and_the_old_ones_stay(model: LanguageModel) -> None:
    before = model.whole_logits(IDS, 0)
    with pytest.raises(CheckpointError, match="another model"):
        model.set_adapters([random_adapter(tiny_config(hidden_size=32))])
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn.*another model"):
        model.set_adapters([random_adapter(tiny_config(num_hidden_layers=3))])
    assert torch.equal(model.whole_logits(IDS, 0), before)
