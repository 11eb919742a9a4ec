"""Several answers in the making over one engine, each with a reader of its own.

The engine's steps serve every answer that runs, whoever asked for the step. So pieces of text are
kept per answer until their reader takes them: two streams read in turns lose nothing.
"""

from collections import deque
from collections.abc import Generator, Sequence

from mixtral.answer import Answer
from mixtral.engine import Engine, SamplingParams
from mixtral.outputs import CompletionChunk
from mixtral.tokenizer import Tokenizer


class Generation:
    """Starts answers and hands out their pieces.

    Args:
        engine: The engine; nobody else steps it.
        tokenizer: None leaves all texts empty.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._running: dict[int, Answer] = {}
        self._unread: dict[int, deque[CompletionChunk]] = {}

    def start(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        *,
        continues_prompt: bool = False,
    ) -> list[Answer]:
        """Queue ``params.n`` answers per prompt; all of them, or none when one is refused.

        Args:
            prompts: Token ids.
            params: Settings of all answers; answer i of a prompt uses seed + i.
            continues_prompt: Whether an answer goes on where its prompt's text ends.

        Raises:
            InvalidRequest: A prompt is empty or has an unknown token id.
            ContextLengthExceeded: A prompt and its answer do not fit into the context.
        """
        answers: list[Answer] = []
        try:
            for prompt in prompts:
                for index in range(params.n):
                    seed = None if params.seed is None else params.seed + index
                    own = params.replace(seed=seed, n=1)
                    answer = Answer(
                        self._tokenizer,
                        self._engine.add(prompt, own),
                        prompt,
                        own,
                        index=index,
                        continues_prompt=continues_prompt,
                    )
                    answers.append(answer)
                    self._running[answer.sequence_id] = answer
                    self._unread[answer.sequence_id] = deque()
        except BaseException:
            self.abort(answers)
            raise
        return answers

    def finish(self, answers: Sequence[Answer]) -> None:
        """Run until all these answers are complete; an exception aborts them."""
        try:
            while any(not answer.is_finished for answer in answers):
                self._step()
        finally:
            self.abort(answers)

    def stream(self, answer: Answer) -> Generator[CompletionChunk, None, None]:
        """Yield the pieces of one answer as they come; closing or dropping it aborts."""
        pieces = self._pieces(answer)
        # Run to the first yield: a generator that never ran would not abort when it is closed.
        next(pieces)
        return pieces

    def _pieces(self, answer: Answer) -> Generator[CompletionChunk, None, None]:
        unread = self._unread[answer.sequence_id]
        try:
            yield CompletionChunk(text="", token_ids=[], finish_reason=None, usage=answer.usage())
            while unread or not answer.is_finished:
                if unread:
                    yield unread.popleft()
                else:
                    self._step()
        finally:
            self.abort([answer])

    def abort(self, answers: Sequence[Answer]) -> None:
        """Forget answers and free what they hold; finished ones included."""
        for answer in answers:
            if not answer.is_finished:
                self._engine.abort(answer.sequence_id)
            self._running.pop(answer.sequence_id, None)
            self._unread.pop(answer.sequence_id, None)

    def _step(self) -> None:
        for output in self._engine.step():
            answer = self._running[output.sequence_id]
            self._unread[output.sequence_id].append(answer.push(output))
            if answer.is_finished:
                del self._running[output.sequence_id]
                if output.finish_reason is None:  # a stop string, which the engine cannot know
                    self._engine.abort(output.sequence_id)
