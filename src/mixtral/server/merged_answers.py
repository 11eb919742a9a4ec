"""Answers to several prompts of one request, and answers that need no engine."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

from mixtral.outputs import CompletionChunk, Usage
from mixtral.server.answers import AnswerSource


class MergedAnswers:
    """The pieces of several sources as they come; answer j of source i has index i * n + j.

    At most one piece per source waits here: a slow reader holds the sources back.

    Args:
        sources: One per prompt.
        n: Answers of each.
    """

    def __init__(self, sources: Sequence[AnswerSource], *, n: int) -> None:
        self._sources = sources
        self._n = n

    def cancel(self) -> None:
        """Stop all sources."""
        for source in self._sources:
            source.cancel()

    async def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        """Give the pieces; the first error of any source ends all."""
        queue: asyncio.Queue[CompletionChunk | Exception | None] = asyncio.Queue(len(self._sources))
        tasks = [
            asyncio.create_task(self._feed(source, position, queue))
            for position, source in enumerate(self._sources)
        ]
        num_running = len(tasks)
        try:
            while num_running:
                item = await queue.get()
                if item is None:
                    num_running -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            if num_running:
                self.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(
        self,
        source: AnswerSource,
        position: int,
        queue: asyncio.Queue[CompletionChunk | Exception | None],
    ) -> None:
        try:
            async for chunk in source:
                await queue.put(dataclasses.replace(chunk, index=position * self._n + chunk.index))
            await queue.put(None)
        except Exception as error:  # handed to whoever reads the pieces
            await queue.put(error)


class EmptyAnswers:
    """Answers of no token, for ``max_tokens`` 0: the prompt is checked and counted, not run.

    Args:
        n: How many.
        num_prompt_tokens: Tokens of the prompt.
    """

    def __init__(self, *, n: int, num_prompt_tokens: int) -> None:
        self._n = n
        self._usage = Usage(prompt_tokens=num_prompt_tokens, completion_tokens=0)

    def cancel(self) -> None:
        """Do nothing; there is nothing to stop."""

    async def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        """Give the end of each answer."""
        for index in range(self._n):
            yield CompletionChunk(
                text="", token_ids=[], finish_reason="length", usage=self._usage, index=index
            )
