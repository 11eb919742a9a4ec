"""Perplexity of texts: exp of the mean loss per token, in one of three definitions.

A number without its definition says nothing, because a token is easier the more comes before it.

**windows** is what llama.cpp's ``llama-perplexity`` computes without ``--ppl-stride``
(https://github.com/ggml-org/llama.cpp/blob/050fc7f32de16858ac667d775b43a51ed8976e6f/tools/perplexity/perplexity.cpp,
function ``perplexity``): one newline at the end of the text is dropped, the text is encoded with
``<s>``, cut into windows of C tokens without overlap, and what is left over is not used. The first
token of each window is *replaced* by ``<s>``. Of each window the tokens C/2 + 1 to C - 1 are scored
(indices from 0), so C - C/2 - 1 of them. The error is that of the mean over all scored tokens. Two
things differ: llama.cpp asks for two windows at least, here one is enough; and where several
documents are given, each is cut by itself.

    C = 8:  <s> t1 t2 t3 t4 [t5 t6 t7]   <s> t9 t10 t11 t12 [t13 t14 t15]

**strided** is the sliding window of Hugging Face's guide
(https://huggingface.co/docs/transformers/perplexity): windows of C tokens begin every ``stride``
tokens and score what no window before them has scored. So every token but the first ``<s>`` is
scored once, with at least C - stride tokens before it from the second window on. Windows after the
first begin in the middle of the text, without ``<s>``. Each token weighs the same here; the guide
weighs windows by one token less than they score.

**whole** is one pass over each document: every token with everything before it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mixtral.errors import ConfigError
from mixtral.eval.token_scores import LogProbs, hash_targets

Definition = Literal["windows", "strided", "whole"]

Progress = Callable[[int, int], None]
"""Called with the number of tokens done and of all tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Tokens of one pass, and which of them are scored."""

    token_ids: Sequence[int]
    """What the model reads."""
    first: int
    """Index of the first scored token; all after it are scored, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentLoss:
    """What was measured on one document."""

    name: str
    """Its name."""
    num_windows: int
    """Passes over it; 0 where it is shorter than a window."""
    num_tokens: int
    """Scored tokens."""
    total_loss: float
    """Sum of their losses, nats."""
    total_square: float
    """Sum of the squares of their losses."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        perplexity = math.exp(self.total_loss / self.num_tokens) if self.num_tokens else None
        return {
            "name": self.name,
            "windows": self.num_windows,
            "tokens": self.num_tokens,
            "perplexity": perplexity,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """What was measured on all documents."""

    definition: Definition
    """How the texts were cut."""
    documents: Sequence[DocumentLoss]
    """Each document, those that are too short included."""
    targets_sha256: str
    """Tells the scored tokens from others, see ``hash_targets``."""

    @property
    def num_tokens(self) -> int:
        """Scored tokens."""
        return sum(document.num_tokens for document in self.documents)

    @property
    def num_too_short(self) -> int:
        """Documents without a window."""
        return sum(document.num_windows == 0 for document in self.documents)

    @property
    def mean_loss(self) -> float:
        """Mean loss of a token, nats."""
        return sum(document.total_loss for document in self.documents) / self.num_tokens

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss."""
        return math.exp(self.mean_loss)

    @property
    def error(self) -> float:
        """Standard error of the perplexity, as if tokens were independent; llama.cpp's formula."""
        if self.num_tokens < 2:
            return math.inf
        square = sum(document.total_square for document in self.documents) / self.num_tokens
        variance = max(0.0, square - self.mean_loss**2)
        return self.perplexity * math.sqrt(variance / (self.num_tokens - 1))

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "definition": self.definition,
            "perplexity": self.perplexity,
            "standard_error": self.error if math.isfinite(self.error) else None,
            "mean_loss": self.mean_loss,
            "tokens": self.num_tokens,
            "targets_sha256": self.targets_sha256,
            "documents_too_short": self.num_too_short,
            "documents": [document.as_dict() for document in self.documents],
        }


def half_windows(token_ids: Sequence[int], *, context: int, bos_id: int) -> list[Window]:
    """Cut a text as llama.cpp does, see the module.

    >>> half_windows([1, 5, 6, 7, 8, 9, 10, 11, 12], context=4, bos_id=1)[1]
    Window(token_ids=[1, 9, 10, 11], first=3)
    """
    starts = range(0, len(token_ids) - context + 1, context)
    return [
        Window(token_ids=[bos_id, *token_ids[start + 1 : start + context]], first=context // 2 + 1)
        for start in starts
    ]


def strided_windows(token_ids: Sequence[int], *, context: int, stride: int) -> list[Window]:
    """Cut a text as Hugging Face's guide does, see the module.

    >>> [(w.token_ids, w.first) for w in strided_windows([1, 5, 6, 7, 8], context=3, stride=2)]
    [([1, 5, 6], 1), ([6, 7, 8], 1)]
    """
    windows = []
    scored = 1
    for begin in range(0, len(token_ids), stride):
        end = min(begin + context, len(token_ids))
        if end > scored:
            piece = token_ids[begin:end]
            windows.append(Window(token_ids=piece, first=scored - begin))
        scored = max(scored, end)
        if end == len(token_ids):
            break
    return windows


def measure_perplexity(
    log_probs: LogProbs,
    documents: Sequence[tuple[str, Sequence[Window]]],
    *,
    definition: Definition,
    progress: Progress | None = None,
) -> Perplexity:
    """Score the windows of every document.

    Args:
        log_probs: The model, see ``TokenScorer``.
        documents: Name and windows of each.
        definition: How the windows were cut, for the report.
        progress: Called after each window.

    Raises:
        ConfigError: No document has a window.
    """
    total = sum(len(window.token_ids) for _, windows in documents for window in windows)
    if not total:
        raise ConfigError(
            f"none of the {len(documents)} texts is as long as a window; take a smaller context "
            "or a longer text."
        )
    done = 0
    losses = []
    for name, windows in documents:
        loss = square = 0.0
        tokens = 0
        for window in windows:
            scores = log_probs(window.token_ids, window.first).double()
            loss -= float(scores.sum())
            square += float(scores.square().sum())
            tokens += len(scores)
            done += len(window.token_ids)
            if progress is not None:
                progress(done, total)
        losses.append(
            DocumentLoss(
                name=name,
                num_windows=len(windows),
                num_tokens=tokens,
                total_loss=loss,
                total_square=square,
            )
        )
    targets = (window.token_ids[window.first :] for _, windows in documents for window in windows)
    return Perplexity(definition=definition, documents=losses, targets_sha256=hash_targets(targets))
