"""Several answers in the making over one engine, each with a reader of its own.

The engine's steps serve every answer that runs, whoever asked for the step. So pieces of text are
kept per answer until their reader takes them: two streams read in turns lose nothing.
"""

from collections import deque
from collections.abc import Generator, Sequence

from mixtral.answer import Answer
from mixtral.engine import Engine, TokenOutput
from mixtral.outputs import CompletionChunk
from mixtral.request import Request
from mixtral.tokenizer import Tokenizer


def add_answers(
    engine: Engine, request: Request, tokenizer: Tokenizer | None
) -> list[tuple[int, Answer]]:
    """Queue the ``params.n`` answers of a request; all of them, or none when one is refused.

    Answer i draws with seed + i; all share the cache blocks of their prompt.

    Returns:
        Sequence numbers and answers.

    Raises:
        InvalidRequest: The prompt is empty or has an unknown token id.
        ContextLengthExceeded: Prompt and answer do not fit into the context.
    """
    added: list[tuple[int, Answer]] = []
    params = request.params
    try:
        for index in range(params.n):
            seed = None if params.seed is None else params.seed + index
            sequence_id = engine.add(
                request.prompt_token_ids,
                params.replace(seed=seed, n=1),
                constraint=None if request.grammar is None else request.grammar.start(),
                leader_id=added[0][0] if added else None,
                needs_routing=request.needs_routing,
                priority=request.priority,
                owner=request.owner,
                adapter=request.adapter,
            )
            added.append((sequence_id, Answer(tokenizer, request, index=index)))
    except BaseException:
        for sequence_id, _ in added:
            engine.abort(sequence_id)
        raise
    return added


def push_output(engine: Engine, answer: Answer, output: TokenOutput) -> CompletionChunk:
    """Give an answer its tokens; one that a stop string ends is ended in the engine, too.

    Returns:
        The piece of text that they make.
    """
    piece = answer.push(output)
    if answer.is_finished and output.finish_reason is None:  # The engine knows no stop strings.
        engine.abort(output.sequence_id)
    return piece


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

    def start(self, requests: Sequence[Request]) -> dict[int, Answer]:
        """Queue the answers of all requests, or none when one is refused.

        Returns:
            Answers in order, by number of their sequence.

        Raises:
            InvalidRequest: A prompt is empty or has an unknown token id.
            ContextLengthExceeded: A prompt and its answer do not fit into the context.
        """
        answers: dict[int, Answer] = {}
        try:
            for request in requests:
                for sequence_id, answer in add_answers(self._engine, request, self._tokenizer):
                    answers[sequence_id] = self._running[sequence_id] = answer
                    self._unread[sequence_id] = deque()
        except BaseException:
            self.abort(answers)
            raise
        return answers

    def finish(self, answers: dict[int, Answer]) -> None:
        """Run until all these answers are complete; an exception aborts them."""
        try:
            while any(not answer.is_finished for answer in answers.values()):
                self._step()
        finally:
            self.abort(answers)

    def stream(self, answers: dict[int, Answer]) -> Generator[CompletionChunk, None, None]:
        """Yield the pieces of answers as they come; closing or dropping it aborts."""
        pieces = self._pieces(answers)
        # Run to the first yield: a generator that never ran would not abort when it is closed.
        next(pieces)
        return pieces

    def _pieces(self, answers: dict[int, Answer]) -> Generator[CompletionChunk, None, None]:
        try:
            usage = next(iter(answers.values())).usage()
            yield CompletionChunk(text="", token_ids=[], finish_reason=None, usage=usage)
            unread = {number: self._unread[number] for number in answers}
            while any(unread.values()) or not all(a.is_finished for a in answers.values()):
                for queue in unread.values():
                    while queue:
                        yield queue.popleft()
                if not all(answer.is_finished for answer in answers.values()):
                    self._step()
        finally:
            self.abort(answers)

    def abort(self, answers: dict[int, Answer]) -> None:
        """Forget answers and free what they hold; finished ones included."""
        for sequence_id, answer in answers.items():
            if not answer.is_finished:
                self._engine.abort(sequence_id)
            self._running.pop(sequence_id, None)
            self._unread.pop(sequence_id, None)

    def _step(self) -> None:
        for output in self._engine.step():
            self._take(output)

    def _take(self, output: TokenOutput) -> None:
        # A stop string may have ended the answer before the last tokens of a step.
        answer = self._running.get(output.sequence_id)
        if answer is None:
            return
        self._unread[output.sequence_id].append(push_output(self._engine, answer, output))
        if answer.is_finished:
            del self._running[output.sequence_id]
