"""How likely a model finds each token of a text, at any length of context.

The logits of a long text do not fit into memory: 32,768 tokens of a vocabulary of 32,000 are 4 GB.
So the engine runs the text in chunks over its KV cache, as it runs a prompt, and the logits of each
chunk become one number per scored token before the next chunk runs (``Engine.add_scored``).
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from mixtral.engine import Engine
from mixtral.eval.answer_cache import AnswerCache, question_key
from mixtral.llm import LLM

LogProbs = Callable[[Sequence[int], int], Tensor]
"""(T token ids, first) -> log-probabilities of the tokens first to T - 1, [T - first]."""


def hash_targets(pieces: Iterable[Sequence[int]]) -> str:
    """Return the sha256 of scored tokens, 64 hexadecimal digits: the same numbers mean the same.

    Args:
        pieces: Ids of the tokens that each window scores.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(array("q", [len(piece), *piece]).tobytes())
    return digest.hexdigest()


class TokenScorer:
    """Scores the tokens of one text after the other with a loaded model.

    Args:
        engine: The engine of the model; nobody else steps it.
        adapter: Place of an adapter among those of the model; None asks the model as it is.
    """

    def __init__(self, engine: Engine, *, adapter: int | None = None) -> None:
        self._engine = engine
        self._adapter = adapter

    @classmethod
    def of(cls, llm: LLM, *, adapter: str | None = None) -> "TokenScorer":
        """Return a scorer over a loaded model.

        Raises:
            InvalidRequest: There is no such adapter.
        """
        return cls(llm.engine, adapter=llm.requests.find_adapter(adapter))

    def __call__(self, token_ids: Sequence[int], first: int) -> Tensor:
        """Return the log-probability of each token from ``first`` on, given all before it.

        Args:
            token_ids: T ids of the vocabulary; nothing is added to them.
            first: Index of the first scored token, from 1 to T - 1.

        Returns:
            [T - first], float64, on the CPU, natural logarithms.

        Raises:
            ContextLengthExceeded: The text is longer than the context, by more than its last token.
            EngineError: The model gives no numbers.
        """
        assert 1 <= first < len(token_ids), (first, len(token_ids))
        # Nothing comes after the last token, so it is scored and not run.
        number = self._engine.add_scored(token_ids[:-1], token_ids[first:], adapter=self._adapter)
        try:
            while True:
                for output in self._engine.step():
                    if output.sequence_id == number:
                        scores = [score.logprob for score in output.scores]
                        return torch.tensor(scores, dtype=torch.float64)
        finally:
            self._engine.abort(number)


class KeptScores:
    """Scores that an earlier run has on disk, and for all others a model, whose scores are added.

    Args:
        score: The model.
        cache: Scores of this very model.
    """

    def __init__(self, score: LogProbs, cache: AnswerCache) -> None:
        self._score = score
        self._cache = cache

    def __call__(self, token_ids: Sequence[int], first: int) -> Tensor:
        """Return the log-probability of each token from ``first`` on, as ``TokenScorer`` does."""
        key = question_key(list(token_ids), first)
        if key not in self._cache:
            self._cache[key] = self._score(token_ids, first).tolist()
        return torch.tensor(self._cache[key], dtype=torch.float64)
