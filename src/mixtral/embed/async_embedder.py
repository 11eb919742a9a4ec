"""Embedding requests of many callers, joined into batches on one thread.

A request that finds the model idle waits ``window_s`` for company; while the model runs, arrivals
gather without waiting. Each round takes at most ``max_batch`` inputs, shared out equally between
the requests, so a large request slows a small one by a round, not by all of its batches.

A forward pass runs on one core unless told otherwise. OpenMP threads wait for one another by
spinning: where they share cores with the engine, two are several times slower than one, and slow
the engine, too. ``torch.set_num_threads`` sets the count of the calling thread, and the count that
later threads begin with; the second is put back, so the engine keeps its own.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Self

import numpy as np
import torch

from mixtral.embed.batches import share_round
from mixtral.embed.embedder import MAX_BATCH, Embedder, Embeddings, PendingEmbedder
from mixtral.errors import ConfigError, EngineDead, EngineError, Error, QueueFull
from mixtral.model import torch_threads
from mixtral.validation import require_int

_LOG = logging.getLogger(__name__)


class AsyncEmbedder:
    """Embeds for many tasks at once. Make it anywhere; call ``embed`` from an event loop.

    Args:
        embedder: The model, or one to load on the thread; requests wait for it then, and get its
            error if that fails.
        window_s: Seconds that the first request waits for others.
        max_batch: Inputs of one round.
        max_waiting: Requests that may be unanswered at a time.
        num_threads: Cores of a forward pass; more than 1 only where no engine shares them.

    Raises:
        ConfigError: A number is outside its range.
    """

    def __init__(
        self,
        embedder: Embedder | PendingEmbedder,
        *,
        window_s: float = 0.002,
        max_batch: int = MAX_BATCH,
        max_waiting: int = 256,
        num_threads: int = 1,
    ) -> None:
        if not 0 <= window_s <= 1:
            raise ConfigError(f"window_s is {window_s!r}; it must be from 0 to 1 second.")
        require_int("max_batch", max_batch, low=1)
        require_int("max_waiting", max_waiting, low=1)
        require_int("num_threads", num_threads, low=1)
        self.name = embedder.name
        """What the model is called; known before it is loaded."""
        self._window_s = window_s
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._loaded: Future[Embedder] = Future()
        self._arrived: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Guards the next two, and that nothing is queued after the None that ends the thread.
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._is_closed = False
        self._num_rounds = 0
        # Read here: while the engine is in a step, a new thread would see the step's own count.
        self._num_threads = (num_threads, torch_threads.num_threads())
        self._thread = threading.Thread(
            target=self._work, args=(embedder,), name="mixtral-embed", daemon=True
        )
        self._thread.start()

    @classmethod
    def load(cls, model: str | Path | None = None, *, device: str = "cpu") -> Self:
        """Load a model on the thread, so that the caller need not wait seconds for it.

        What can be checked quickly is checked at once.

        Args:
            model: As for ``Embedder``.
            device: As for ``Embedder``.

        Raises:
            UnsupportedError: The extra is not installed, or the machine lacks the device.
            CheckpointError: There is no such model.
            ConfigError: There is no such device.
        """
        return cls(PendingEmbedder(model, device=device))

    @property
    def is_loaded(self) -> bool:
        """Whether the model is there."""
        return self._loaded.done() and self._loaded.exception() is None

    @property
    def num_rounds(self) -> int:
        """Rounds run so far."""
        return self._num_rounds

    async def embedder(self) -> Embedder:
        """Return the model, once it is loaded.

        Raises:
            Error: It could not be loaded.
        """
        # The future is everybody's: a caller who gives up must not cancel it.
        return await asyncio.shield(asyncio.wrap_future(self._loaded))

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, dimension: int | None = None
    ) -> Embeddings:
        """Return a unit vector for each input; what ``Embedder.embed`` gives, to 1e-5.

        Raises:
            InvalidRequest: An input is empty or wrong, or ``dimension`` above the model's.
            QueueFull: Too many requests wait.
            EngineDead: The embedder was closed.
            Error: The model could not be loaded.
        """
        job = _Job(inputs, dimension)
        with self._lock:
            if self._is_closed:
                raise EngineDead("the embedder is closed; make a new one.")
            if self._num_waiting >= self._max_waiting:
                raise QueueFull(
                    f"{self._num_waiting} embedding requests wait, the most allowed; try later."
                )
            self._num_waiting += 1
            self._arrived.put(job)
        job.future.add_done_callback(self._forget)
        return await asyncio.wrap_future(job.future)

    async def close(self) -> None:
        """End the thread after its round; requests that wait end with ``EngineDead``."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._arrived.put(None)
        await asyncio.to_thread(self._thread.join)

    def _forget(self, _: "Future[Embeddings]") -> None:
        with self._lock:
            self._num_waiting -= 1

    # ---- On the thread -------------------------------------------------------------------------

    def _work(self, source: Embedder | PendingEmbedder) -> None:
        _limit_this_thread(*self._num_threads)
        try:
            embedder = source.load() if isinstance(source, PendingEmbedder) else source
        except Exception as error:
            _LOG.error("the embedding model could not be loaded: %s", error)
            self._loaded.set_exception(error)
            while (job := self._arrived.get()) is not None:
                job.fail(error)
            return
        self._loaded.set_result(embedder)
        waiting: list[_Job] = []
        while self._collect(embedder, waiting):
            self._run_round(embedder, waiting)
        for job in waiting:
            job.fail(EngineDead("the embedder was closed before this request was answered."))

    def _collect(self, embedder: Embedder, waiting: "list[_Job]") -> bool:
        """Admit what has arrived, or wait for it; return False when it is time to end."""
        is_idle = not waiting
        deadline: float | None = None
        while not is_idle or sum(job.num_left for job in waiting) < self._max_batch:
            try:
                if not is_idle:
                    job = self._arrived.get_nowait()
                elif deadline is None:
                    job = self._arrived.get()
                else:
                    job = self._arrived.get(timeout=max(0.0, deadline - time.perf_counter()))
            except queue.Empty:
                break
            if job is None:
                return False
            if deadline is None:
                deadline = time.perf_counter() + self._window_s
            if job.start(embedder):
                waiting.append(job)
        return True

    def _run_round(self, embedder: Embedder, waiting: "list[_Job]") -> None:
        waiting[:] = [job for job in waiting if not job.future.done()]
        shares = share_round([job.num_left for job in waiting], size=self._max_batch)
        taking = [(job, share) for job, share in zip(waiting, shares, strict=True) if share]
        if not taking:
            return
        self._num_rounds += 1
        try:
            _run(embedder, taking, self._max_batch)
        except Exception:
            if len(taking) > 1:
                _LOG.exception("a round failed; its requests run one by one")
            for job, share in taking:
                try:
                    _run(embedder, [(job, share)], self._max_batch)
                except Exception as error:
                    _LOG.exception("an embedding request failed")
                    job.fail(error)
        for job, _ in taking:
            if not job.num_left:
                job.finish(embedder)


class _Job:
    """One request: its pieces, which of them have run, and who waits."""

    def __init__(self, inputs: Sequence[str | Sequence[int]], dimension: int | None) -> None:
        self.inputs = inputs
        self.dimension = dimension
        # Stays pending until its result, so that the task that waits can cancel it at any time.
        self.future: Future[Embeddings] = Future()
        self.num_left = 0

    def start(self, embedder: Embedder) -> bool:
        """Read the inputs; return whether there is something to run."""
        if self.future.done():
            return False
        try:
            self.pieces = embedder.read(self.inputs, dimension=self.dimension)
        except Exception as error:
            if not isinstance(error, Error):
                _LOG.exception("an embedding request could not be read")
            self.fail(error)
            return False
        # By length, so that the parts of a large request have little padding.
        self.order = sorted(range(len(self.pieces)), key=lambda i: len(self.pieces[i].token_ids))
        self.vectors = np.empty((len(self.pieces), embedder.dimension), dtype=np.float32)
        self.num_left = len(self.pieces)
        return True

    def next(self, count: int) -> list[int]:
        """Return the indices of the pieces that run next."""
        begin = len(self.order) - self.num_left
        return self.order[begin : begin + count]

    def finish(self, embedder: Embedder) -> None:
        """Give the answer to who waits."""
        self._end(embedder.pack(self.pieces, self.vectors, dimension=self.dimension))

    def fail(self, error: Exception) -> None:
        """Give an error to who waits, a copy: a traceback grows each time it is raised."""
        if isinstance(error, Error):
            self._end(type(error)(*error.args))
        else:
            self._end(EngineError(f"embedding failed: {type(error).__name__}: {error}"))

    def _end(self, outcome: Embeddings | Error) -> None:
        self.num_left = 0
        try:
            if isinstance(outcome, Error):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)
        except InvalidStateError:
            pass  # Cancelled in this moment.


def _run(embedder: Embedder, taking: Sequence[tuple[_Job, int]], max_batch: int) -> None:
    """Run the next pieces of some requests together; they count as run when all have."""
    chosen = [(job, i) for job, share in taking for i in job.next(share)]
    pieces = [job.pieces[i] for job, i in chosen]
    vectors = embedder.run(pieces, max_batch=max_batch)
    for (job, i), vector in zip(chosen, vectors, strict=True):
        job.vectors[i] = vector
    for job, share in taking:
        job.num_left -= share


def _limit_this_thread(num_threads: int, for_others: int) -> None:
    """Set torch's threads for operations of this thread alone."""
    # A thread that has not asked yet would take the default on first use, over what is set here.
    torch.get_num_threads()
    torch.set_num_threads(num_threads)
    # That was also the default of threads to come; another thread can put it back without
    # changing the count of this one.
    restore = threading.Thread(target=torch.set_num_threads, args=(for_others,))
    restore.start()
    restore.join()
