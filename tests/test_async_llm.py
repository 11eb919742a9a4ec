"""AsyncLLM: many requests on one event loop, over a real engine with a tiny model."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from mixtral import LLM, AsyncLLM, SamplingParams
from mixtral.answer import Answer
from mixtral.async_llm import AnswerStream
from mixtral.engine import StepReport, TokenOutput
from mixtral.errors import (
    ContextLengthExceeded,
    EngineDead,
    EngineError,
    InvalidRequest,
    QueueFull,
)
from mixtral.outputs import CompletionChunk
from mixtral.request import Request

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)
QUESTIONS = ["What is a router?", "Hello", "Name three colours.", "What is 2 + 2?", "Who are you?"]

T = TypeVar("T")


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def make_llm(**settings: Any) -> LLM:
    return LLM("nano", max_model_len=512, **({"max_num_seqs": 8} | settings))


def ask(llm: AsyncLLM | LLM, text: str, params: SamplingParams = GREEDY, **fields: Any) -> Request:
    return llm.requests.chat([{"role": "user", "content": text}], params, **fields)


async def read(stream: AnswerStream) -> str:
    return "".join([chunk.text async for chunk in stream])


def test_answers_together_are_those_of_the_blocking_llm() -> None:
    expected = [make_llm().chat([{"role": "user", "content": q}], GREEDY).text for q in QUESTIONS]

    async def work() -> list[str]:
        llm = AsyncLLM(make_llm())
        texts = await asyncio.gather(*(read(llm.submit(ask(llm, q))) for q in QUESTIONS))
        await llm.close()
        return texts

    assert in_loop(work()) == expected


def test_n_answers_come_in_one_stream_each_with_its_end() -> None:
    async def work() -> dict[int, list[str | None]]:
        llm = AsyncLLM(make_llm())
        params = SamplingParams(temperature=1.0, seed=4, max_tokens=8, n=3)
        ends: dict[int, list[str | None]] = {}
        async for chunk in llm.submit(ask(llm, "Hello", params)):
            ends.setdefault(chunk.index, []).append(chunk.finish_reason)
        await llm.close()
        return ends

    ends = in_loop(work())
    assert sorted(ends) == [0, 1, 2]
    for reasons in ends.values():
        assert reasons[-1] in ("stop", "length")
        assert set(reasons[:-1]) == {None}


def test_cancel_frees_all_blocks_within_a_step() -> None:
    async def work() -> int:
        steps: list[StepReport] = []
        llm = AsyncLLM(make_llm(), on_step=steps.append)
        stream = llm.submit(ask(llm, "Hello", GREEDY.replace(ignore_eos=True, max_tokens=400)))
        await anext(stream)
        stream.cancel()
        num_steps = len(steps)
        while llm.stats().num_used_blocks:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        late = len(steps) - num_steps
        assert len([chunk async for chunk in stream]) < 5  # what had come before, then the end
        await llm.close()
        return late

    assert in_loop(work()) <= 2  # the one that ran already, and its end being told


def test_a_cancelled_reader_cancels_its_answer() -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm())
        endless = GREEDY.replace(ignore_eos=True, max_tokens=450)
        reader = asyncio.create_task(read(llm.submit(ask(llm, "Hello", endless))))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        for _ in range(500):
            if llm.stats().num_running == 0:
                break
            await asyncio.sleep(0.01)
        assert llm.stats().num_used_blocks == 0
        await llm.close()

    in_loop(work())


def test_wrong_and_too_many_requests_are_refused_at_once() -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm(max_num_seqs=1), max_waiting=2)
        with pytest.raises(ContextLengthExceeded):
            llm.submit(ask(llm, "long " * 600))
        with pytest.raises(InvalidRequest, match="token id 999999"):
            llm.submit(llm.requests.completion([999999], GREEDY))
        streams = []

        def fill() -> None:
            for _ in range(4):
                streams.append(llm.submit(ask(llm, "Hello", GREEDY.replace(max_tokens=100))))

        with pytest.raises(QueueFull, match="2 answers wait already and 2 may"):
            fill()
        assert len(streams) in (2, 3)  # 3 where the engine has begun the first one by then
        await asyncio.gather(*map(read, streams))
        assert await read(llm.submit(ask(llm, "Hello")))
        await llm.close()

    in_loop(work())


def test_a_stop_string_ends_the_answer_and_frees_its_blocks() -> None:
    async def work() -> tuple[str, str]:
        llm = AsyncLLM(make_llm())
        question = "What is a mixture of experts?"
        whole = await read(llm.submit(ask(llm, question, GREEDY.replace(max_tokens=12))))
        stop = whole.split()[2]
        params = GREEDY.replace(stop=stop, max_tokens=100)
        text = await read(llm.submit(ask(llm, question, params)))
        for _ in range(200):
            if llm.stats().num_used_blocks == 0:
                break
            await asyncio.sleep(0.005)
        assert llm.stats().num_used_blocks == 0
        await llm.close()
        return text, whole[: whole.index(stop)]

    stopped, expected = in_loop(work())
    assert stopped == expected


def test_when_the_engine_dies_every_stream_hears_of_it() -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm())
        streams = [llm.submit(ask(llm, question)) for question in QUESTIONS[:2]]

        def broken_step() -> None:
            raise RuntimeError("the lights went out")

        llm._engine.step = broken_step  # type: ignore[assignment, method-assign]
        for stream in streams:
            with pytest.raises(EngineDead, match="the lights went out"):
                await read(stream)
        with pytest.raises(EngineDead):
            llm.submit(ask(llm, "Hello"))
        assert not llm.is_alive
        await llm.close()

    in_loop(work())


def test_a_fault_in_one_answer_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm())
        params = GREEDY.replace(ignore_eos=True)
        alone = await read(llm.submit(ask(llm, QUESTIONS[1], params)))
        bad, good = (llm.submit(ask(llm, question, params)) for question in QUESTIONS[:2])
        push = Answer.push

        def broken(answer: Answer, output: TokenOutput) -> CompletionChunk:
            if answer in bad._answers.values():
                raise TypeError("a schema that makes no sense")
            return push(answer, output)

        monkeypatch.setattr(Answer, "push", broken)
        results = await asyncio.gather(read(bad), read(good), return_exceptions=True)
        assert isinstance(results[0], EngineError)
        assert "a schema that makes no sense" in str(results[0])
        assert results[1] == alone
        assert llm.is_alive
        await llm.close()

    in_loop(work())


def test_drain_lets_answers_end_and_takes_no_new_ones() -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm())
        reader = asyncio.create_task(read(llm.submit(ask(llm, "Hello"))))
        await asyncio.sleep(0)
        drained = asyncio.create_task(llm.drain(30))
        await asyncio.sleep(0)
        with pytest.raises(EngineDead, match="takes no new requests"):
            llm.submit(ask(llm, "Hello"))
        assert await drained
        assert await reader
        await llm.close()

    in_loop(work())


def test_close_ends_open_streams_with_an_error() -> None:
    async def work() -> None:
        llm = AsyncLLM(make_llm())
        endless = GREEDY.replace(ignore_eos=True, max_tokens=450)
        stream = llm.submit(ask(llm, "Hello", endless))
        await anext(stream)
        await llm.close()
        with pytest.raises(EngineDead, match="was stopped"):
            await read(stream)

    in_loop(work())


def test_random_submits_and_cancels_leave_nothing_behind() -> None:
    async def work() -> None:
        rng = random.Random(0)
        llm = AsyncLLM(make_llm(max_num_seqs=4, kv_cache_gb=0.02), max_waiting=1000)

        async def one(number: int) -> None:
            await asyncio.sleep(rng.random() * 0.3)
            n = rng.choice([1, 1, 2])
            params = GREEDY.replace(max_tokens=rng.randrange(1, 30), n=n, ignore_eos=True)
            stream = llm.submit(ask(llm, QUESTIONS[number % 5], params, owner=str(number % 3)))
            limit = rng.choice([0, 1, 5, 1000])
            seen = 0
            if limit:
                async for _ in stream:
                    seen += 1
                    if seen == limit:
                        break
            stream.cancel()

        await asyncio.gather(*(one(number) for number in range(120)))
        for _ in range(500):
            if llm.stats().num_used_blocks == 0 and llm.stats().num_waiting == 0:
                break
            await asyncio.sleep(0.01)
        assert llm.stats().num_used_blocks == 0
        assert llm.stats().num_waiting == 0
        assert not llm._streams
        assert not llm._open
        await llm.close()

    in_loop(work())
