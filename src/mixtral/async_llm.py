"""The engine on a thread of its own, one asyncio stream per request.

    >>> from mixtral import AsyncLLM, LLM, SamplingParams                # doctest: +SKIP
    >>> llm = AsyncLLM(LLM("nano", max_num_seqs=64))                     # doctest: +SKIP
    >>> request = llm.requests.chat(messages, SamplingParams())          # doctest: +SKIP
    >>> async for chunk in llm.submit(request): ...                      # doctest: +SKIP

Requests and cancellations go to the thread through a list; tokens come back in one call per step.
The text is made on the event loop, while the thread already runs the next step.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from mixtral.answer import Answer
from mixtral.config import ModelConfig
from mixtral.engine import EngineStats, StepReport, TokenOutput
from mixtral.errors import EngineDead, EngineError, Error, QueueFull
from mixtral.generation import add_answers
from mixtral.llm import LLM
from mixtral.outputs import CompletionChunk
from mixtral.request import Request, RequestBuilder
from mixtral.tokenizer import Tokenizer

__all__ = ["AnswerStream", "AsyncLLM", "EngineStats", "StepReport"]

logger = logging.getLogger(__name__)


class AnswerStream:
    """The answers to one request, piece by piece; made by ``AsyncLLM.submit``.

    It ends when each of the ``n`` answers has had its ``finish_reason``.
    """

    def __init__(self, request: Request, cancel: "Callable[[AnswerStream], None]") -> None:
        self.request = request
        """What was asked."""
        self._cancel = cancel
        self._answers: dict[int, Answer] = {}
        self._num_running = request.params.n
        self._pieces: deque[CompletionChunk] = deque()
        self._error: Error | None = None
        self._is_cancelled = False
        self._changed = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        """Return itself."""
        return self

    async def __anext__(self) -> CompletionChunk:
        """Return the next piece, waiting for it; being cancelled here frees the cache blocks.

        Raises:
            EngineError: The engine could not go on.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._is_over or self._is_cancelled:
                raise StopAsyncIteration
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self._pieces.popleft()

    def cancel(self) -> None:
        """Stop all answers; their cache blocks are free after the step that runs now.

        Whoever stops reading before the end has to call this; afterwards it does nothing.
        """
        if not self._is_cancelled and self._num_running and self._error is None:
            self._is_cancelled = True
            self._cancel(self)
            self._changed.set()

    def _begin(self, answers: dict[int, Answer]) -> None:
        self._answers = answers

    def _push(self, output: TokenOutput) -> bool:
        """Take a token; whether it ends its answer."""
        answer = self._answers[output.sequence_id]
        try:
            self._pieces.append(answer.push(output))
        except Error as error:
            self._fail(error)
            return True
        except Exception as error:  # A fault in one answer must not cost the others their tokens.
            logger.exception("an answer failed")
            self._fail(EngineError(f"the answer cannot be read: {error}"))
            return True
        self._num_running -= answer.is_finished
        self._changed.set()
        return answer.is_finished

    @property
    def _is_over(self) -> bool:
        """Whether nothing more can come."""
        return self._num_running == 0 or self._error is not None

    def _fail(self, error: Error) -> None:
        if self._error is None and self._num_running:
            self._error = error
            self._changed.set()


class AsyncLLM:
    """Answers many requests at once on one event loop.

    Args:
        llm: The model; from now on nobody else may use its engine.
        max_waiting: Most answers that wait for a place; more are refused.
        on_step: Called after each step, on the engine's thread.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_waiting: int = 256,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        self.requests: RequestBuilder = llm.requests
        """Builds requests for this model."""
        self.config: ModelConfig = llm.config
        """Geometry of the model."""
        self.max_model_len = llm.max_model_len
        """Longest context in tokens."""
        self.weight_format = llm.weight_format
        """How the weights are stored: a float dtype, or int8, int4 or int3 of packed experts."""
        self._llm = llm
        self._engine = llm.engine
        self._max_waiting = max_waiting
        self._on_step = on_step
        self._wakeup = threading.Condition()
        self._new: list[AnswerStream] = []
        self._gone: list[int] = []
        self._is_closing = False
        self._death: EngineDead | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[int, AnswerStream] = {}  # by sequence; only on the event loop
        self._open: set[AnswerStream] = set()
        self._is_draining = False

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model.

        Raises:
            TokenizerError: The model has none.
        """
        return self._llm.tokenizer

    @property
    def is_alive(self) -> bool:
        """Whether new requests can be answered."""
        return self._death is None and not self._is_closing

    def submit(self, request: Request) -> AnswerStream:
        """Queue a request; call it on the event loop that will read the stream.

        Raises:
            InvalidRequest: The prompt is empty or has an unknown token id.
            ContextLengthExceeded: Prompt and answer do not fit into the context.
            QueueFull: Too many answers wait already.
            EngineDead: The engine has stopped, or is about to.
        """
        if self._death is not None:
            raise self._death
        if self._is_closing or self._is_draining:
            raise EngineDead("the engine is stopping and takes no new requests; try again later.")
        self._engine.check(request.prompt_token_ids, request.params)
        num_new = sum(stream.request.params.n for stream in list(self._new))
        waiting = self._engine.num_waiting + num_new
        if waiting and waiting + request.params.n > self._max_waiting:
            raise QueueFull(
                f"{waiting} answers wait already and {self._max_waiting} may; try again later."
            )
        self._start()
        stream = AnswerStream(request, self._cancel)
        self._open.add(stream)
        with self._wakeup:
            self._new.append(stream)
            self._wakeup.notify()
        return stream

    def stats(self) -> EngineStats:
        """Return the state of the engine; may be called from any thread."""
        return self._engine.stats()

    async def drain(self, timeout_s: float) -> bool:
        """Take no new requests and wait for those that run.

        Returns:
            Whether all have ended in time.
        """
        self._is_draining = True
        end = asyncio.get_running_loop().time() + timeout_s
        while self._open and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        return not self._open

    async def close(self) -> None:
        """Stop the engine's thread after the step that runs now; open streams end with an error."""
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._fail_all(EngineDead("the engine was stopped."))

    def _start(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="mixtral-engine", daemon=True)
            self._thread.start()

    def _cancel(self, stream: AnswerStream) -> None:
        """Forget a stream and have the engine drop what still runs for it."""
        self._open.discard(stream)
        numbers = [number for number, owner in self._streams.items() if owner is stream]
        for number in numbers:
            del self._streams[number]
        with self._wakeup:
            if stream in self._new:
                self._new.remove(stream)
            self._gone += numbers
            self._wakeup.notify()

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._step()
        except Exception as error:  # Whatever it was, every waiting request has to hear of it.
            logger.exception("the engine stopped")
            self._death = EngineDead(f"the engine stopped: {error}")
            self._tell(self._fail_all, self._death)

    def _take_orders(self) -> bool:
        """Add new requests and drop cancelled ones; wait while there is nothing to do."""
        with self._wakeup:
            while not (self._new or self._gone or self._is_closing or self._engine.has_unfinished):
                self._wakeup.wait()
            if self._is_closing:
                return False
            new, self._new = self._new, []
            gone, self._gone = self._gone, []
        for number in gone:
            self._engine.abort(number)
        for stream in new:
            self._add(stream)
        return True

    def _add(self, stream: AnswerStream) -> None:
        tokenizer = self.requests.tokenizer if self.requests.has_tokenizer else None
        try:
            answers = dict(add_answers(self._engine, stream.request, tokenizer))
        except Error as error:
            self._tell(self._refuse, stream, error)
            return
        self._tell(self._register, stream, answers)

    def _step(self) -> None:
        outputs = self._engine.step()
        if outputs:
            self._tell(self._deliver, outputs)
        if self._on_step is not None and (report := self._engine.last_step) is not None:
            self._on_step(report)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop; nobody listens once the loop is closed."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            self._is_closing = True

    def _register(self, stream: AnswerStream, answers: dict[int, Answer]) -> None:
        if stream not in self._open:  # cancelled while it was added
            with self._wakeup:
                self._gone += answers
            return
        stream._begin(answers)
        self._streams.update(dict.fromkeys(answers, stream))

    def _refuse(self, stream: AnswerStream, error: Error) -> None:
        self._open.discard(stream)
        stream._fail(error)

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.sequence_id)
            if stream is None:  # cancelled, or ended by a stop string
                continue
            if not stream._push(output):
                continue
            del self._streams[output.sequence_id]
            if output.finish_reason is None:  # a stop string, which the engine cannot know
                with self._wakeup:
                    self._gone.append(output.sequence_id)
            if stream._is_over:
                self._cancel(stream)

    def _fail_all(self, error: Error) -> None:
        for stream in list(self._open):
            stream._fail(error)
        self._open.clear()
        self._streams.clear()
