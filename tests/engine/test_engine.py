"""Invariants of the engine: what runs beside a request must not change its tokens."""

import random

import pytest
import torch

from mixtral.engine import SamplingParams
from mixtral.engine.block_manager import BlockManager
from mixtral.engine.scheduler import Scheduler
from mixtral.engine.sequence import Sequence
from mixtral.errors import ContextLengthExceeded, InvalidRequest, OutOfBlocks
from mixtral.model import TokenBatch
from tests.engine.engine_for_tests import GREEDY, make_engine, random_prompts, run
from tests.models_for_tests import tiny_model


def test_batch_of_mixed_lengths_gives_same_tokens_as_each_prompt_alone() -> None:
    prompts = random_prompts(9)
    together = run(make_engine(), prompts, GREEDY)
    alone = [run(make_engine(), [prompt], GREEDY)[0] for prompt in prompts]
    assert together == alone


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunked_prefill_gives_same_tokens_as_whole_prefill(chunk: int) -> None:
    prompts = random_prompts(4)
    whole = run(make_engine(), prompts, GREEDY)
    assert run(make_engine(max_num_batched_tokens=chunk), prompts, GREEDY) == whole


def test_preempted_requests_give_same_tokens() -> None:
    prompts = random_prompts(8, seed=3)
    calm = run(make_engine(), prompts, GREEDY)
    engine = make_engine(num_blocks=9)
    assert run(engine, prompts, GREEDY) == calm
    assert engine.num_preemptions > 0


@pytest.mark.parametrize("window", [None, 8])
def test_cached_decode_equals_scoring_the_whole_text_at_once(window: int | None) -> None:
    model = tiny_model(sliding_window=window)
    prompt = random_prompts(1, seed=9)[0]
    tokens = run(make_engine(model), [prompt], GREEDY)[0]
    logits = model.logits(model(TokenBatch.from_sequences([prompt + tokens])))
    expected = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    assert tokens == expected


def test_reported_logprobs_equal_rescoring_the_answer() -> None:
    model = tiny_model()
    engine = make_engine(model)
    prompt = [5, 6, 7]
    engine.add(prompt, SamplingParams(seed=1, max_tokens=6, logprobs=3, ignore_eos=True))
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    whole = prompt + [output.token_id for output in outputs]
    log_probs = model.logits(model(TokenBatch.from_sequences([whole]))).log_softmax(-1)
    for i, output in enumerate(outputs):
        row = log_probs[len(prompt) - 1 + i]
        assert output.logprob is not None
        assert output.logprob.logprob == pytest.approx(float(row[output.token_id]), abs=1e-4)
        assert [t for t, _ in output.logprob.top] == row.topk(3).indices.tolist()


def test_same_seed_gives_same_tokens_in_any_company() -> None:
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=10, ignore_eos=True)
    alone = run(make_engine(), [[1, 2, 3]], params)[0]
    crowd = run(make_engine(), [*random_prompts(5), [1, 2, 3]], params)[-1]
    other = run(make_engine(), [[1, 2, 3]], params.replace(seed=8))[0]
    assert alone == crowd
    assert alone != other


def test_abort_frees_all_blocks_and_the_rest_is_undisturbed() -> None:
    engine = make_engine()
    expected = run(make_engine(), [[1, 2, 3]], GREEDY)[0]
    gone = engine.add(list(range(30)), GREEDY)
    kept = engine.add([1, 2, 3], GREEDY)
    engine.step()
    engine.abort(gone)
    tokens = []
    while engine.has_unfinished:
        tokens += [o.token_id for o in engine.step() if o.sequence_id == kept]
    assert tokens == expected[-len(tokens) :]
    assert engine._blocks.num_free_blocks == 64


def test_end_token_stops_and_min_tokens_holds_it_back() -> None:
    model = tiny_model()
    first = run(make_engine(model), [[1, 2, 3]], GREEDY)[0][0]
    ending = tiny_model(eos_token_id=first)
    params = SamplingParams(temperature=0.0, max_tokens=12)
    assert run(make_engine(ending), [[1, 2, 3]], params)[0] == [first]
    longer = run(make_engine(ending), [[1, 2, 3]], params.replace(min_tokens=4))[0]
    assert len(longer) >= 4
    assert first not in longer[:4]


def test_prompt_longer_than_context_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"300 tokens.* 256"):
        make_engine().add([1] * 300, GREEDY)
    with pytest.raises(ContextLengthExceeded, match="250 tokens and max_tokens is 12"):
        make_engine().add([1] * 250, GREEDY)


@pytest.mark.parametrize("prompt", [[], [512], [-1], ["a"], [1.5]])
def test_wrong_token_ids_are_refused(prompt: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        make_engine().add(prompt, GREEDY)  # type: ignore[arg-type]


def test_random_work_never_loses_or_shares_a_block() -> None:
    rng = random.Random(0)
    blocks = BlockManager(num_blocks=40, block_size=8)
    scheduler = Scheduler(blocks, max_num_seqs=6, max_num_batched_tokens=48)
    alive: list[Sequence] = []
    for number in range(4000):
        if rng.random() < 0.2:
            sequence = Sequence(
                sequence_id=number,
                prompt_token_ids=[0] * rng.randrange(1, 120),
                params=GREEDY,
                max_tokens=rng.randrange(1, 60),
                eos_token_id=2,
            )
            scheduler.add(sequence)
            alive.append(sequence)
        for item in scheduler.schedule():
            item.sequence.num_computed_tokens += item.num_new_tokens
            if item.sequence.num_uncomputed_tokens == 0:
                item.sequence.append(0)
        for sequence in list(alive):
            if sequence.finish_reason or rng.random() < 0.002:
                scheduler.finish(sequence)
                alive.remove(sequence)
        owned = [block for sequence in alive for block in sequence.block_table]
        assert len(owned) == len(set(owned))
        assert len(owned) + blocks.num_free_blocks == 40
    for sequence in alive:
        scheduler.finish(sequence)
    assert blocks.num_free_blocks == 40
    assert scheduler.num_preemptions > 0


def test_block_manager_changes_nothing_when_it_runs_out() -> None:
    blocks = BlockManager(num_blocks=2, block_size=8)
    sequence = Sequence(
        sequence_id=0, prompt_token_ids=[0] * 40, params=GREEDY, max_tokens=1, eos_token_id=2
    )
    with pytest.raises(OutOfBlocks, match="5 blocks are needed and 2 are free"):
        blocks.allocate(sequence, 40)
    assert sequence.block_table == []
    assert blocks.num_free_blocks == 2


def test_padded_cache_read_equals_single_reads() -> None:
    from mixtral.model import KVCache
    from tests.models_for_tests import tiny_config

    cache = KVCache(tiny_config(), num_blocks=6, block_size=4, dtype=torch.float32)
    key, value = torch.randn(2, 24, 2, 16, generator=torch.Generator().manual_seed(0))
    cache.write(1, key, value, torch.arange(24))
    keys, values = cache.read_padded(1, torch.tensor([[4, 1], [3, 3]]))
    one_key, one_value = cache.read(1, [4, 1], 7)
    assert torch.equal(keys[0, :7], one_key)
    assert torch.equal(values[0, :7], one_value)
    neighbours, _ = cache.read(1, [3, 4], 6)
    assert torch.equal(neighbours, key[12:18])
