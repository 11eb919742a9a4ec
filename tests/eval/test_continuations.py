"""Continuations scored together: each as if it were alone, and a shared beginning only once."""

import pytest

from mixtral.errors import ContextLengthExceeded
from mixtral.eval.continuations import Continuation, score_continuations
from mixtral.llm import LLM
from tests.eval.tiny_llm import load, write_model


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return load(write_model(tmp_path_factory.mktemp("model") / "tiny"), max_num_seqs=16)


def logprob(llm: LLM, context: list[int], target: list[int]) -> float:
    rows = llm.logits([*context, *target][:-1]).log_softmax(-1)[-len(target) :]
    return sum(float(row[token]) for row, token in zip(rows, target, strict=True))


def test_scores_are_those_of_each_text_alone_in_any_window(llm: LLM) -> None:
    contexts = [[1, *range(30, 30 + n)] for n in (1, 5, 40, 41, 80)]
    pairs = [
        Continuation(context_ids=context, target_ids=target)
        for context in contexts
        for target in ([7], [8, 9], [30, 31, 32])
    ]
    expected = [logprob(llm, [*pair.context_ids], [*pair.target_ids]) for pair in pairs]
    for window in (1, 4, 64):
        scores = score_continuations(llm, pairs, num_waiting=window)
        assert [score.logprob for score in scores] == pytest.approx(expected, rel=1e-5)


def test_questions_with_the_same_shots_run_the_shots_once(llm: LLM) -> None:
    shots = [1, *range(900, 1060)]
    pairs = [
        Continuation(context_ids=[*shots, *range(start, start + 40)], target_ids=[answer])
        for start in (2000, 3000, 4000)
        for answer in (5, 6, 7, 8)
    ]
    before = llm.engine.stats()
    score_continuations(llm, pairs)
    after = llm.engine.stats()
    num_run = (after.num_prompt_tokens - before.num_prompt_tokens) - (
        after.prefix_hit_tokens - before.prefix_hit_tokens
    )
    # The shots, three questions, and less than two blocks of each of the twelve.
    assert num_run <= len(shots) + 3 * 40 + 12 * 32


def test_what_is_too_long_loses_its_beginning_and_says_so(llm: LLM) -> None:
    room = llm.max_model_len
    text = [1, *(30 + i % 300 for i in range(room))]  # one token more than the context holds
    fitting, cut = score_continuations(
        llm,
        [
            Continuation(context_ids=text[:-2], target_ids=text[-2:]),
            Continuation(context_ids=[1, *text[:-2]], target_ids=text[-2:]),
        ],
    )
    assert (fitting.was_cut, cut.was_cut) == (False, True)
    assert cut.logprob == pytest.approx(fitting.logprob, rel=1e-5)  # another batch, other sums


def test_answer_longer_than_the_context_is_an_error_of_one_line(llm: LLM) -> None:
    pair = Continuation(context_ids=[1], target_ids=[5] * (llm.max_model_len + 1))
    with pytest.raises(ContextLengthExceeded, match="the context of this model is"):
        score_continuations(llm, [pair])


def test_interrupted_scoring_leaves_nothing_in_the_engine(llm: LLM) -> None:
    def stop(place: int, score: object) -> None:
        raise KeyboardInterrupt

    pairs = [Continuation(context_ids=[1, 5, n], target_ids=[6, 7]) for n in range(40)]
    with pytest.raises(KeyboardInterrupt):
        score_continuations(llm, pairs, report=stop)
    assert not llm.engine.has_unfinished
    assert llm.engine.stats().num_used_blocks == 0
