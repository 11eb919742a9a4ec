"""Greedy answers of a loaded model, with what its prefix cache saved."""

import time
from collections.abc import Sequence

from mixtral.engine import SamplingParams
from mixtral.eval.passkey_grid import Reply
from mixtral.llm import LLM


class EngineAnswerer:
    """Answers one prompt after the other, so that each finds what the one before computed.

    Args:
        llm: The model.
        adapter: Name of an adapter; None asks the model as it is.
    """

    def __init__(self, llm: LLM, *, adapter: str | None = None) -> None:
        self._llm = llm
        self._adapter = adapter

    def __call__(self, token_ids: Sequence[int], *, max_tokens: int) -> Reply:
        """Continue a prompt with the likeliest tokens.

        Raises:
            ContextLengthExceeded: Prompt and answer do not fit into the context.
        """
        hits = self._llm.engine.stats().prefix_hit_tokens
        begin = time.perf_counter()
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        (completion,) = self._llm.generate([list(token_ids)], params, adapter=self._adapter)
        return Reply(
            text=completion.text,
            num_reused=self._llm.engine.stats().prefix_hit_tokens - hits,
            seconds=time.perf_counter() - begin,
        )
