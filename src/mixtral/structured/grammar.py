"""A compiled grammar, and the state of one answer under it.

``Grammar`` is made once per request format and shared. ``GrammarState`` belongs to one answer and
has the shape that the engine asks for: ``prepare`` gives the work to a thread and returns, ``mask``
waits for it. llguidance lets other threads run while it fills a mask, so the masks of a whole batch
are ready when the model is.

How an answer ends in time. Each state has a *closing*: tokens that bring the text to a valid end
(``closing``). One further token makes it longer by at most ``max_jump``, which is estimated from
the schema: the price of the largest object, key or value that a token can begin. As long as the
tokens left exceed closing + ``max_jump``, any allowed token may be chosen. Below that the mask is
cut to the first token of the closing; inside a free string, to words and the closing, so that the
model still writes the text while the structure ends. The closing is not looked for at every token:
after k tokens it has at most its old length + k * ``max_jump``, which is enough far from the end.
When ``max_tokens`` is less than the very first closing, nothing is cut: the answer is then a prefix
of a valid one.
"""

import logging
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from mixtral.structured.closing import ClosingSearch, Hints, reaches_end
from mixtral.structured.json_text import JsonTracker
from mixtral.structured.vocabulary import Vocabulary, Words, fill_mask

# Tried in a string, to see whether it is free: a pattern makes a difference between them.
_SAMPLES = b"a7 ."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskTools:
    """What all grammars of one model share."""

    vocabulary: Vocabulary
    """Bytes of the tokens."""
    closing: ClosingSearch
    """Finds how a text can end."""
    executor: Executor
    """Threads that fill masks."""
    digits: Words
    """Tokens with a digit."""
    zeros: Words
    """Tokens with the digit 0."""
    openers: Words
    """Tokens with an opening bracket."""
    plain: Words
    """Tokens that any free JSON string may go on with."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grammar:
    """A set of texts; immutable, for any number of answers and threads.

    Made by ``GrammarCompiler``.
    """

    tools: MaskTools
    """Shared tables."""
    matcher: LLMatcher
    """llguidance's state before the first token; only ever copied."""
    first_words: Words
    """Tokens that may come first in an answer."""
    closing: list[int]
    """Tokens of a short text from the start."""
    hints: Hints
    """How strings with a pattern end."""
    max_jump: int
    """By how many tokens one token may lengthen the closing."""
    has_name_patterns: bool
    """Whether the name of a property decides by a pattern what its value may be."""
    tracker: JsonTracker | None
    """Where the texts are JSON: what keeps numbers and nesting readable; only ever copied."""

    def start(self) -> "GrammarState":
        """Begin an answer, whose text is that of ``Tokenizer.decode``: without a leading space."""
        return GrammarState(self)


class GrammarState:
    """One answer under a grammar; has the shape of ``mixtral.engine.constraint.Constraint``.

    One thread at a time calls it. The returned mask is valid until the next ``prepare``.
    """

    __slots__ = (
        "_closing",
        "_does_not_fit",
        "_future",
        "_grammar",
        "_has_ended",
        "_is_first",
        "_matcher",
        "_max_closing",
        "_num_remaining",
        "_tracker",
        "_was_shortened",
        "_words",
    )

    def __init__(self, grammar: Grammar) -> None:
        """Start before the first token; ``Grammar.start`` is the way to make one."""
        self._grammar = grammar
        self._matcher = grammar.matcher.deep_copy()
        self._tracker = grammar.tracker.copy() if grammar.tracker else None
        self._words: Words = np.zeros(grammar.tools.vocabulary.num_words, dtype=np.uint32)
        self._future: Future[None] | None = None
        self._is_first = True
        self._has_ended = False
        self._was_shortened = False
        self._num_remaining = 0
        self._closing: list[int] | None = list(grammar.closing)
        if grammar.closing:
            # The first token loses a leading space, so a text that begins with one needs another.
            vocabulary = grammar.tools.vocabulary
            if vocabulary.token_bytes[grammar.closing[0]].startswith(b" "):
                self._closing = [vocabulary.space_id, *grammar.closing]
        self._max_closing = len(grammar.closing) + 1
        self._does_not_fit = False

    def prepare(self, num_remaining: int) -> None:
        """Begin to find the tokens that may come next; returns at once.

        Args:
            num_remaining: Tokens that the answer may still have, at least 1.
        """
        self._wait()
        self._num_remaining = num_remaining
        if self._is_first or self._has_ended:
            self._fill()
        else:
            self._future = self._grammar.tools.executor.submit(self._fill)

    def mask(self) -> Words:
        """Return the tokens that may come next, ceil(V / 32) words."""
        self._wait()
        return self._words

    def accept(self, token_id: int) -> None:
        """Note the token that was chosen; it was allowed by ``mask``."""
        self._wait()
        vocabulary = self._grammar.tools.vocabulary
        if self._has_ended or token_id == vocabulary.eos_id:
            self._has_ended = True
            return
        if token_id in vocabulary.control_ids:
            self._consume([token_id], b"")
        elif self._is_first:
            text = vocabulary.first_text(token_id)
            self._consume(vocabulary.ids_of(text), text)
        else:
            self._consume([token_id], vocabulary.token_bytes[token_id])
        self._is_first = False
        if self._closing and self._closing[0] == token_id:
            self._closing = self._closing[1:]
            self._max_closing = len(self._closing)
        else:
            self._max_closing += self._grammar.max_jump

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and nothing but the end token could follow."""
        self._wait()
        return self._has_ended or (self._matcher.is_stopped() and self._matcher.is_accepting())

    @property
    def was_shortened(self) -> bool:
        """Whether the tokens that remained cut down what the model could choose."""
        self._wait()
        return self._was_shortened

    def _wait(self) -> None:
        if self._future is not None:
            future, self._future = self._future, None
            future.result()

    def _consume(self, token_ids: list[int], text: bytes) -> None:
        if token_ids and not self._matcher.consume_tokens(token_ids):
            self._give_up()
        if self._tracker:
            self._tracker.push(text)

    def _fill(self) -> None:
        """Write the mask; runs on a thread of the executor."""
        words = self._words
        if self._has_ended:
            np.copyto(words, self._end_only())
            return
        if self._is_first:
            np.copyto(words, self._grammar.first_words)
        else:
            fill_mask(self._matcher, words)
            if self._matcher.is_error():
                self._give_up()
                np.copyto(words, self._end_only())
                return
        if self._tracker:
            tools = self._grammar.tools
            if self._tracker.is_deep:
                _remove(words, tools.openers)
            if not self._tracker.is_in_string and self._tracker.has_enough_digits:
                # Where a number cannot end yet, as 0.000 above 0, at least no more zeros.
                _remove(words, tools.digits) or _remove(words, tools.zeros)
        self._keep_end_in_reach(words)

    def _give_up(self) -> None:
        """End an answer whose grammar needs more work than llguidance may do."""
        logger.warning("a grammar became too complex: %s", self._matcher.get_error()[:300])
        self._was_shortened = self._has_ended = True

    def _keep_end_in_reach(self, words: Words) -> None:
        """Cut the mask where free choice could make the rest too long for what remains."""
        max_jump = self._grammar.max_jump
        if self._does_not_fit or self._num_remaining > self._max_closing + max_jump:
            return
        closing = self._find_closing()
        if closing is None or (self._is_first and len(closing) > self._num_remaining):
            self._does_not_fit = self._is_first
            return
        self._max_closing = len(closing)
        if self._num_remaining > len(closing) + max_jump:
            return
        allowed = self._allowed_near_end(words, closing)
        if not np.array_equal(allowed, words):
            self._was_shortened = True
            np.copyto(words, allowed)

    def _allowed_near_end(self, words: Words, closing: list[int]) -> Words:
        if not closing:
            return self._end_only()
        tools = self._grammar.tools
        allowed = tools.vocabulary.single(closing[0])
        has_room = self._num_remaining > len(closing) + 1
        return allowed | tools.plain if has_room and self._is_free(words, closing) else allowed

    def _is_free(self, words: Words, closing: list[int]) -> bool:
        """Tell whether any words may follow without making the closing longer."""
        tools = self._grammar.tools
        if self._grammar.has_name_patterns or not (self._tracker and self._tracker.is_in_string):
            return False
        if not np.array_equal(words & tools.plain, tools.plain):
            return False
        byte_ids = tools.vocabulary.byte_ids
        return all(reaches_end(self._matcher, [byte_ids[byte], *closing]) for byte in _SAMPLES)

    def _find_closing(self) -> list[int] | None:
        """Return the closing from here, the known one where it still holds."""
        known = self._closing
        if known is not None and (self._is_first or reaches_end(self._matcher, known)):
            return known
        self._closing = self._grammar.tools.closing.find(
            self._matcher,
            self._tracker,
            self._grammar.hints,
            known=known,
            max_tokens=self._num_remaining,
        )
        return self._closing

    def _end_only(self) -> Words:
        vocabulary = self._grammar.tools.vocabulary
        return vocabulary.single(vocabulary.eos_id)


def _remove(words: Words, tokens: Words) -> bool:
    """Take tokens out of a mask; do nothing and return False where nothing would be left."""
    rest = words & ~tokens
    if not rest.any():
        return False
    np.copyto(words, rest)
    return True
