"""What one generation has taken so far: tokens and times."""

import time
from collections.abc import Sequence

from mixtral.outputs import CompletionChunk, Usage
from mixtral.server.logs import RequestRecord
from mixtral.server.metrics import Metrics


class Progress:
    """Adds up pieces; tells the access line and the metrics at the end.

    Args:
        metrics: Gets the times.
        record: Gets the tokens; knows when the request came.
        n: Answers per prompt: answer i belongs to prompt i // n, and a prompt counts once.
        prompt_tokens: Tokens of each prompt; they count even if the client leaves before anything
            has come, because they may have been read by then.
    """

    def __init__(
        self, metrics: Metrics, record: RequestRecord, *, n: int, prompt_tokens: Sequence[int]
    ) -> None:
        self._metrics = metrics
        self._record = record
        self._n = n
        self._prompt_tokens = prompt_tokens
        self._usages: dict[int, Usage] = {}
        self._last_token_s: float | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far, of all answers."""
        prompts = {index // self._n: usage.prompt_tokens for index, usage in self._usages.items()}
        return Usage(
            prompt_tokens=sum(prompts.values()),
            completion_tokens=sum(usage.completion_tokens for usage in self._usages.values()),
        )

    def push(self, chunk: CompletionChunk) -> None:
        """Take the next piece; its usage covers its answer so far."""
        self._usages[chunk.index] = chunk.usage
        if chunk.token_ids:
            self._last_token_s = time.perf_counter()
            if self._record.first_token_s is None:
                self._record.first_token_s = self._last_token_s

    def finish(self, *, is_complete: bool, is_refused: bool) -> None:
        """Count everything.

        Args:
            is_complete: False when the answer was cut off.
            is_refused: Whether the engine did not take the request, so that no prompt was read.
        """
        record, usage = self._record, self.usage
        record.num_prompt_tokens += 0 if is_refused else sum(self._prompt_tokens)
        record.num_completion_tokens += usage.completion_tokens
        first_s, last_s = record.first_token_s, self._last_token_s
        # Per answer: the tokens of n answers come side by side.
        longest = max((u.completion_tokens for u in self._usages.values()), default=0)
        pace_s = None
        if first_s is not None and last_s is not None and longest > 1:
            pace_s = (last_s - first_s) / (longest - 1)
        self._metrics.observe_generation(
            ttft_s=None if first_s is None else first_s - record.started_s,
            tpot_s=pace_s,
            e2e_s=time.perf_counter() - record.started_s if is_complete else None,
        )
