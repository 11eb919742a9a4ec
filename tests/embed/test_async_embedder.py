"""Requests that arrive together run together, and never change or disturb one another."""

import asyncio
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mixtral.embed import AsyncEmbedder, Embedder, Embeddings
from mixtral.errors import CheckpointError, ConfigError, EngineDead, InvalidRequest, QueueFull
from mixtral.model.torch_threads import one_thread

TEXTS = [f"sentence {i} about {'routers ' * (i % 9)}" for i in range(100)]


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Embedder:
    return Embedder(tiny_folder)


def test_hundred_single_requests_run_in_few_rounds_with_the_same_vectors(
    embedder: Embedder,
) -> None:
    async def run() -> tuple[list[Embeddings], int]:
        shared = AsyncEmbedder(embedder, window_s=0.02)
        results = await asyncio.gather(*(shared.embed([text]) for text in TEXTS))
        await shared.close()
        return results, shared.num_rounds

    results, num_rounds = asyncio.run(run())
    assert num_rounds <= 4
    expected = embedder.embed(TEXTS)
    assert np.abs(np.concatenate([r.vectors for r in results]) - expected.vectors).max() < 1e-5
    assert [r.num_tokens[0] for r in results] == expected.num_tokens


def test_mixed_requests_get_their_own_answers_in_order(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, max_batch=5)
        rng = random.Random(1)
        asked = [rng.sample(TEXTS, rng.randint(1, 30)) for _ in range(20)]
        sizes = [rng.choice([None, 8, 32]) for _ in asked]
        results = await asyncio.gather(
            *(shared.embed(texts, dimension=d) for texts, d in zip(asked, sizes, strict=True))
        )
        await shared.close()
        for texts, dimension, result in zip(asked, sizes, results, strict=True):
            expected = tiny.embed(texts, dimension=dimension)
            assert np.abs(result.vectors - expected.vectors).max() < 1e-5
            assert result.num_tokens == expected.num_tokens
            assert result.is_cut == expected.is_cut

    asyncio.run(run())


def test_wrong_request_does_not_fail_those_beside_it(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny)
        results = await asyncio.gather(
            shared.embed(["good"]),
            shared.embed([""]),
            shared.embed([[10**9]]),
            shared.embed(["good"], dimension=33),
            shared.embed(["good"]),
            return_exceptions=True,
        )
        await shared.close()
        assert [type(r) for r in results] == [
            Embeddings,
            InvalidRequest,
            InvalidRequest,
            InvalidRequest,
            Embeddings,
        ]

    asyncio.run(run())


def test_cancelled_request_leaves_the_others_whole(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, window_s=0.05, max_waiting=20)
        for _ in range(5):
            tasks = [asyncio.create_task(shared.embed(TEXTS[:40])) for _ in range(20)]
            await asyncio.sleep(0.02)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(r, asyncio.CancelledError) for r in results[::2])
            assert all(isinstance(r, Embeddings) for r in results[1::2])
        await shared.close()

    asyncio.run(run())


def test_cancelled_requests_are_not_run(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, window_s=0.1)
        task = asyncio.create_task(shared.embed(TEXTS[:40]))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.2)
        assert shared.num_rounds == 0
        await shared.embed(["the thread goes on"])
        await shared.close()

    asyncio.run(run())


def test_small_request_does_not_wait_for_a_large_one(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, max_batch=8)
        large = asyncio.create_task(shared.embed(TEXTS * 20))
        while not shared.num_rounds:
            await asyncio.sleep(0)
        await shared.embed(["small"])
        assert not large.done()
        assert len((await large).num_tokens) == 2000
        await shared.close()

    asyncio.run(run())


def test_full_queue_refuses_and_recovers(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, window_s=0.1, max_waiting=2)
        tasks = [asyncio.create_task(shared.embed(["a"])) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 embedding requests wait"):
            await shared.embed(["b"])
        await asyncio.gather(*tasks)
        await shared.embed(["c"])
        await shared.close()

    asyncio.run(run())


def test_close_ends_what_waits_and_refuses_what_comes(tiny: Embedder) -> None:
    async def run() -> None:
        shared = AsyncEmbedder(tiny, max_batch=1)
        tasks = [asyncio.create_task(shared.embed(TEXTS)) for _ in range(3)]
        while not shared.num_rounds:
            await asyncio.sleep(0)
        begin = time.perf_counter()
        await shared.close()
        assert time.perf_counter() - begin < 2
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, EngineDead) for r in results)
        with pytest.raises(EngineDead, match="is closed"):
            await shared.embed(["a"])
        await shared.close()

    asyncio.run(run())


def test_model_loads_on_the_thread_and_requests_wait_for_it(tiny_folder: Path) -> None:
    async def run() -> None:
        shared = AsyncEmbedder.load(tiny_folder)
        assert shared.name == tiny_folder.name
        result = await shared.embed(["waits"])
        assert shared.is_loaded
        assert result.vectors.shape == (1, (await shared.embedder()).dimension)
        await shared.close()

    asyncio.run(run())


def test_model_that_does_not_load_is_every_requests_error(
    tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("modules.json", "config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())

    async def run() -> None:
        shared = AsyncEmbedder.load(tmp_path)
        with pytest.raises(CheckpointError, match="could not be loaded"):
            await shared.embedder()
        for _ in range(2):
            with pytest.raises(CheckpointError, match="could not be loaded"):
                await shared.embed(["a"])
        assert not shared.is_loaded
        await shared.close()

    asyncio.run(run())


def test_failing_round_is_run_again_one_request_at_a_time(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = tiny._forward

    def out_of_memory_on_long_ones(token_ids: list[list[int]]) -> np.ndarray:
        if max(map(len, token_ids)) > 20:
            raise MemoryError("no room")
        return forward(token_ids)

    monkeypatch.setattr(tiny, "_forward", out_of_memory_on_long_ones)

    async def run() -> None:
        shared = AsyncEmbedder(tiny, window_s=0.05)
        results = await asyncio.gather(
            shared.embed(["short"]), shared.embed(["long " * 30]), return_exceptions=True
        )
        assert isinstance(results[0], Embeddings)
        assert "no room" in str(results[1])
        assert isinstance(await shared.embed(["short"]), Embeddings)
        await shared.close()

    asyncio.run(run())


def test_threads_of_torch_stay_as_they_are_elsewhere(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = tiny._forward

    def look(token_ids: list[list[int]]) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return forward(token_ids)

    monkeypatch.setattr(tiny, "_forward", look)

    async def run() -> list[int]:
        shared = AsyncEmbedder(tiny, num_threads=3)
        await shared.embed(["a"])
        later = await asyncio.to_thread(torch.get_num_threads)
        await shared.close()
        return [torch.get_num_threads(), later]

    before = torch.get_num_threads()
    assert asyncio.run(run()) == [before, before]
    assert seen == [3]


def test_embedder_made_in_a_new_thread_during_a_step_leaves_all_threads_to_later_ones(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    limit = "mixtral.embed.async_embedder._limit_this_thread"
    monkeypatch.setattr(limit, lambda own, others: given.append((own, others)))

    async def run() -> None:
        with one_thread():
            shared = await asyncio.to_thread(AsyncEmbedder, tiny)
            await shared.embed(["a"])
        await shared.close()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        asyncio.run(run())
    finally:
        torch.set_num_threads(before)
    assert given == [(1, 3)]


@pytest.mark.parametrize(
    "wrong", [{"window_s": -1}, {"max_batch": 0}, {"max_waiting": 0}, {"num_threads": 0}]
)
def test_numbers_outside_their_range_are_refused(tiny: Embedder, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AsyncEmbedder(tiny, **wrong)  # type: ignore[arg-type]
