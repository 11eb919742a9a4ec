"""The model that lm-evaluation-harness sees: same numbers as the logits, nothing asked twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from lm_eval.api.instance import Instance

from mixtral import SamplingParams
from mixtral.errors import ContextLengthExceeded, UnsupportedError
from mixtral.eval.answer_cache import AnswerCache
from mixtral.eval.lm_eval_model import EngineLM
from mixtral.llm import LLM
from tests.eval.tiny_llm import load, write_model


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    return load(write_model(tmp_path_factory.mktemp("model") / "tiny"))


def ask(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("task", 0, 1))


def test_log_likelihood_is_the_sum_over_the_tokens_of_the_continuation(llm: LLM) -> None:
    whole = llm.tokenizer.encode("The river is deep")
    num_before = len(llm.tokenizer.encode("The river is"))
    rows = llm.logits(whole[:-1]).log_softmax(-1)[num_before - 1 :]
    expected = sum(float(r[t]) for r, t in zip(rows, whole[num_before:], strict=True))
    # The space belongs to the continuation, wherever a task puts it.
    for pair in (("The river is", " deep"), ("The river is ", "deep")):
        ((found, _),) = EngineLM(llm).loglikelihood([ask("loglikelihood", *pair)])
        assert found == pytest.approx(expected, rel=1e-5)


def test_greedy_continuation_is_said_to_be_greedy(llm: LLM) -> None:
    ids = llm.tokenizer.encode("The river")
    greedy = llm.generate([ids], SamplingParams(temperature=0, max_tokens=1))[0].token_ids
    lm = EngineLM(llm)
    scores = lm._loglikelihood_tokens([(("", ""), ids, [*greedy]), (("", ""), ids, [7])])
    assert [is_greedy for _, is_greedy in scores] == [True, greedy == [7]]


def test_empty_context_is_the_begin_token(llm: LLM) -> None:
    ids = llm.tokenizer.encode("deep", bos=False)
    rows = llm.logits([llm.tokenizer.bos_id, *ids][:-1]).log_softmax(-1)
    expected = sum(float(r[t]) for r, t in zip(rows, ids, strict=True))
    ((found, _),) = EngineLM(llm).loglikelihood([ask("loglikelihood", "", "deep")])
    assert found == pytest.approx(expected, rel=1e-5)


def test_rolling_scores_every_token_once_however_long_the_text(llm: LLM) -> None:
    text = "the river runs and the cloud " * 90
    ids = llm.tokenizer.encode(text)
    assert len(ids) > 2 * llm.max_model_len
    (found,) = EngineLM(llm).loglikelihood_rolling([ask("loglikelihood_rolling", text)])
    first = llm.max_model_len
    rows = llm.logits([llm.tokenizer.bos_id, *ids][:first]).log_softmax(-1)
    begin = sum(float(r[t]) for r, t in zip(rows, ids[:first], strict=True))
    assert found < begin  # the first window, and more
    assert found / len(ids) == pytest.approx(begin / first, rel=0.2)


def test_answer_ends_before_its_stop_string_and_with_its_number_of_tokens(llm: LLM) -> None:
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    (text,) = EngineLM(llm).generate_until([ask("generate_until", "A river", settings)])
    stop = text[4:7]
    settings = {"until": [stop], "max_gen_toks": 12}
    (cut,) = EngineLM(llm).generate_until([ask("generate_until", "A river", settings)])
    assert cut == text[: text.index(stop)]


def test_repeated_draws_differ_and_are_the_same_after_a_kill(llm: LLM, tmp_path: Path) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = [ask("generate_until", "A river", settings)] * 4
    whole = EngineLM(llm, seed=3).generate_until(requests)
    assert len(set(whole)) > 1
    with AnswerCache(tmp_path / "answers.jsonl") as cache:
        EngineLM(llm, cache=cache, seed=3).generate_until(requests[:2])
    with AnswerCache(tmp_path / "answers.jsonl") as cache:
        assert EngineLM(llm, cache=cache, seed=3).generate_until(requests) == whole


def test_killed_run_keeps_every_answer_that_was_finished(llm: LLM, tmp_path: Path) -> None:
    lengths = (2, 4, 90)
    requests = [
        ask("generate_until", f"{count} rivers", {"until": [], "max_gen_toks": count})
        for count in lengths
    ]
    shown: list[tuple[int, int]] = []

    def kill_after_two(done: int, total: int) -> None:
        shown.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    before = llm.engine.stats().num_output_tokens
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path) as cache, pytest.raises(KeyboardInterrupt):
        EngineLM(llm, cache=cache, progress=kill_after_two).generate_until(requests)
    assert shown == [(1, 3), (2, 3)]
    stats = llm.engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_output_tokens - before < 20  # the long answer had only begun
    with AnswerCache(path) as cache:
        assert len(cache) == 2
        again = EngineLM(llm, cache=cache).generate_until(requests)
    assert again == EngineLM(llm).generate_until(requests)


def test_few_places_in_the_engine_give_the_same_answers(llm: LLM) -> None:
    requests = [
        ask("generate_until", f"{place} rivers", {"until": ["e"], "max_gen_toks": 9})
        for place in range(7)
    ]
    one = EngineLM(llm, batch=2).generate_until(requests)
    assert one == EngineLM(llm).generate_until(requests)


def test_answers_on_disk_are_not_asked_again(llm: LLM, tmp_path: Path) -> None:
    requests = [ask("loglikelihood", "The river is", f" {word}") for word in ("deep", "cold")]
    with AnswerCache(tmp_path / "answers.jsonl") as cache:
        first = EngineLM(llm, cache=cache).loglikelihood(requests)
    before = llm.engine.stats().num_prompt_tokens
    with AnswerCache(tmp_path / "answers.jsonl") as cache:
        assert EngineLM(llm, cache=cache).loglikelihood(requests) == first
    assert llm.engine.stats().num_prompt_tokens == before


def test_conversations_are_asked_in_the_official_template(llm: LLM) -> None:
    lm = EngineLM(llm)
    messages = [{"role": "user", "content": "Is [INST] deep?"}]
    context = lm.apply_chat_template(messages)
    ids, target = lm._encode_pair(context, "Yes")
    assert ids == lm.tok_encode(context) == llm.encode_chat(messages)
    assert target == llm.tokenizer.encode("Yes", bos=False)


def test_begun_answer_goes_on_in_the_same_turn(llm: LLM) -> None:
    lm = EngineLM(llm)
    messages = [
        {"role": "user", "content": "Is it deep?"},
        {"role": "assistant", "content": "It is"},
    ]
    context = lm.apply_chat_template(messages, add_generation_prompt=False)
    ids, target = lm._encode_pair(context, " deep")
    whole = [*messages[:1], {"role": "assistant", "content": "It is deep", "prefix": True}]
    assert [*ids, *target] == llm.encode_chat(whole)


def test_cut_questions_are_counted_once_by_task_also_from_disk(llm: LLM, tmp_path: Path) -> None:
    long = [ask("loglikelihood", "a river " * 200, answer) for answer in (" deep", " cold")]
    requests = [*long, ask("loglikelihood", "a", " b")]
    for _ in range(2):
        with AnswerCache(tmp_path / "answers.jsonl") as cache:
            lm = EngineLM(llm, cache=cache)
            lm.loglikelihood(requests)
        assert lm.num_cut == {"task": 1}


def test_unknown_setting_of_a_task_is_refused_not_ignored(llm: LLM) -> None:
    settings = {"until": [], "num_beams": 4}
    with pytest.raises(UnsupportedError, match="a task asks for num_beams=4"):
        EngineLM(llm).generate_until([ask("generate_until", "A", settings)])


def test_answer_without_room_for_a_question_is_one_line(llm: LLM) -> None:
    settings = {"until": [], "max_gen_toks": 256}
    with pytest.raises(ContextLengthExceeded, match="may have 256 tokens; the context") as caught:
        EngineLM(llm).generate_until([ask("generate_until", "A", settings)])
    assert "\n" not in str(caught.value)
