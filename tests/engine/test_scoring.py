"""Scoring given tokens: the same numbers as one forward pass over the whole text."""

import pytest
import torch

from mixtral.engine import Engine
from mixtral.engine.scoring import TokenScore, score_tokens
from mixtral.errors import ContextLengthExceeded, EngineError, InvalidRequest
from tests.engine.engine_for_tests import GREEDY, make_engine, random_prompts
from tests.models_for_tests import tiny_model

Job = tuple[list[int], int]
"""A text, and how many of its last tokens are scored."""


def add(engine: Engine, job: Job, leader_id: int | None = None) -> int:
    tokens, count = job
    return engine.add_scored(tokens[:-1], tokens[-count:], leader_id=leader_id)


def finish(engine: Engine, sequence_ids: list[int]) -> list[tuple[TokenScore, ...]]:
    scores = {}
    while engine.has_unfinished:
        scores |= {output.sequence_id: output.scores for output in engine.step()}
    return [scores[number] for number in sequence_ids]


def score(engine: Engine, jobs: list[Job]) -> list[tuple[TokenScore, ...]]:
    return finish(engine, [add(engine, job) for job in jobs])


def expected(job: Job) -> list[float]:
    tokens, count = job
    logprobs = tiny_model().whole_logits(tokens[:-1]).log_softmax(-1)[-count:]
    return [float(row[token]) for row, token in zip(logprobs, tokens[-count:], strict=True)]


def jobs_of_mixed_lengths() -> list[Job]:
    prompts = [prompt for prompt in random_prompts(12, seed=4) if len(prompt) > 2]
    return [(prompt, 1 + index % (len(prompt) - 1)) for index, prompt in enumerate(prompts)]


def values(scores: list[tuple[TokenScore, ...]]) -> list[list[float]]:
    return [[score.logprob for score in each] for each in scores]


@pytest.mark.parametrize("chunk", [3, 17, 512])
def test_scores_in_a_batch_of_any_chunks_equal_one_pass_over_each_text(chunk: int) -> None:
    jobs = jobs_of_mixed_lengths()
    scored = values(score(make_engine(max_num_batched_tokens=chunk), jobs))
    for job, found in zip(jobs, scored, strict=True):
        assert found == pytest.approx(expected(job), rel=1e-5)


def test_scores_from_cached_blocks_equal_fresh_ones_and_run_fewer_tokens() -> None:
    prefix = random_prompts(1, seed=8)[0] * 4
    jobs = [([*prefix, 7, ending, 9], 2) for ending in range(20, 26)]
    engine = make_engine()
    first = add(engine, jobs[0])
    ids = [first, *(add(engine, job, leader_id=first) for job in jobs[1:])]
    shared = values(finish(engine, ids))
    assert engine.stats().prefix_hit_tokens >= 5 * (len(prefix) - 8)
    fresh = values(score(make_engine(enable_prefix_cache=False), jobs))
    assert shared == [pytest.approx(each, abs=1e-5) for each in fresh]


def test_whole_text_scored_twice_is_never_taken_from_the_cache() -> None:
    job = ([5, 6, 7] * 12, 35)
    engine = make_engine()
    assert score(engine, [job]) == score(engine, [job])
    assert engine.stats().prefix_hit_tokens == 0


def test_preempted_scoring_gives_the_same_scores() -> None:
    jobs = [([7 + i, 8, 9] * 10, 20) for i in range(4)]
    calm = values(score(make_engine(), jobs))
    engine = make_engine(num_blocks=6, max_num_batched_tokens=16)
    busy = [engine.add([3, 4, 5], GREEDY) for _ in range(2)]
    scores = values(finish(engine, [*busy, *(add(engine, job) for job in jobs)])[2:])
    assert scores == [pytest.approx(each, abs=1e-5) for each in calm]


def test_scoring_beside_an_answer_does_not_change_it() -> None:
    prompt = random_prompts(1, seed=2)[0]
    alone = make_engine()
    alone.add(prompt, GREEDY)
    tokens = [o.token_id for _ in range(12) for o in alone.step()]
    engine = make_engine()
    number = engine.add(prompt, GREEDY)
    for job in jobs_of_mixed_lengths():
        add(engine, job)
    outputs = []
    while engine.has_unfinished:
        outputs += [o.token_id for o in engine.step() if o.sequence_id == number]
    assert outputs == tokens


def test_greedy_is_said_of_the_likeliest_token_alone() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert [score.is_greedy for score in score_tokens(logits, [1, 1])] == [True, False]


def test_weights_that_give_no_numbers_are_an_error() -> None:
    with pytest.raises(EngineError, match="no finite numbers"):
        score_tokens(torch.full((1, 3), float("nan")), [0])


def test_all_blocks_are_free_after_scoring() -> None:
    engine = make_engine()
    score(engine, jobs_of_mixed_lengths())
    assert engine.stats().num_used_blocks == 0


@pytest.mark.parametrize(
    ("prompt", "targets", "message"),
    [
        ([5], [], "there are 0 targets; there must be from 1 to 1"),
        ([5], [6, 7], "there are 2 targets"),
        ([], [6], "the prompt has no tokens"),
        ([5], [512], "the targets has the token id 512"),
    ],
)
def test_wrong_targets_are_refused(prompt: list[int], targets: list[int], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        make_engine().add_scored(prompt, targets)


def test_text_longer_than_the_context_is_refused_with_both_lengths() -> None:
    engine = make_engine()
    engine.add_scored([5] * 256, [6])
    with pytest.raises(ContextLengthExceeded, match="257 tokens; it must have at most 256"):
        engine.add_scored([5] * 257, [6])
