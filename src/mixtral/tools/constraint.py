"""What an answer may say around its calls: free text until the marker, a grammar behind it.

A grammar costs a mask per token. An answer that may be text or calls pays for none while it is
text: ``mask`` is None until the marker is there. In v3 the marker is one control token. In v1 it
is text, of which a model may write any part for other reasons; once ``[TOOL_`` is there, the rest
of the marker is forced, so that the list behind it begins with a token of its own.

An answer that must call is forced to write the marker, a token at a time.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixtral.tokenizer import Tokenizer
from mixtral.tools.markers import (
    CALLS_MARKER,
    CALLS_TOKEN_ID,
    MarkerMatcher,
    marker_token_ids,
    tokens_of_rest,
)

_NUM_DECISIVE = len("[TOOL_")


class GrammarState(Protocol):
    """One answer under a grammar; the engine's ``Constraint``, which this layer may not import."""

    def prepare(self, num_remaining: int) -> None:
        """Begin to work out which tokens may come next."""

    def mask(self) -> NDArray[np.uint32] | None:
        """Return the tokens that may come next, one bit each; None where every token may."""

    def accept(self, token_id: int) -> None:
        """Note the token that was chosen."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""

    @property
    def was_shortened(self) -> bool:
        """Whether the text ended earlier than the model wanted, because tokens ran out."""


class Grammar(Protocol):
    """A grammar for any number of answers."""

    def start(self) -> GrammarState:
        """Begin one answer."""


class CallGrammar:
    """The grammar of an answer that may or must call.

    Args:
        tokenizer: Decides what the marker is.
        vocab_size: Rows of the model's head, V.
        calls: The grammar of the list behind the marker.
        is_forced: Whether the answer must begin with the marker.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, calls: Grammar, is_forced: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.calls = calls
        self.is_forced = is_forced

    def start(self) -> "CallState":
        """Begin one answer."""
        return CallState(self)


class CallState:
    """One answer that may or must call: text, then the marker, then the grammar of the list."""

    def __init__(self, grammar: CallGrammar) -> None:
        self._grammar = grammar
        self._tokenizer = grammar.tokenizer
        self._forced = marker_token_ids(self._tokenizer) if grammar.is_forced else []
        self._matcher = MarkerMatcher()
        self._calls: GrammarState | None = None

    def prepare(self, num_remaining: int) -> None:
        """Let the grammar of the calls begin its work, where they have begun."""
        if self._calls is not None:
            self._calls.prepare(num_remaining)

    def mask(self) -> NDArray[np.uint32] | None:
        """Return None in text, one token inside a marker, and the grammar's mask behind it."""
        if self._calls is not None:
            return self._calls.mask()
        if self._forced:
            return _only(self._forced[0], self._grammar.vocab_size)
        return None

    def accept(self, token_id: int) -> None:
        """Note the token that was chosen."""
        if self._calls is not None:
            self._calls.accept(token_id)
        elif self._forced:
            del self._forced[0]
            if not self._forced:
                self._calls = self._grammar.calls.start()
        elif self._tokenizer.version == "v3":
            if token_id == CALLS_TOKEN_ID:
                self._calls = self._grammar.calls.start()
        else:
            self._look_for_text_marker(token_id)

    @property
    def is_complete(self) -> bool:
        """Whether the list of calls is closed."""
        return self._calls is not None and self._calls.is_complete

    @property
    def was_shortened(self) -> bool:
        """Whether the calls ended earlier than the model wanted, because tokens ran out."""
        return self._calls is not None and self._calls.was_shortened

    def _look_for_text_marker(self, token_id: int) -> None:
        # Latin-1 gives one character per byte; the marker's own are the same in every encoding.
        for character in self._tokenizer.token_bytes(token_id).decode("latin-1"):
            self._matcher.step(character)
        if _NUM_DECISIVE <= self._matcher.matched < len(CALLS_MARKER):
            self._forced = tokens_of_rest(self._tokenizer, self._matcher.matched)
        elif self._matcher.matched == len(CALLS_MARKER):
            self._calls = self._grammar.calls.start()


class NoCallGrammar:
    """The constraint of a v3 answer that must not call: every token but the marker's."""

    def __init__(self, *, vocab_size: int) -> None:
        mask = np.full(-(-vocab_size // 32), 0xFFFFFFFF, dtype=np.uint32)
        mask[CALLS_TOKEN_ID // 32] ^= np.uint32(1 << CALLS_TOKEN_ID % 32)
        mask.flags.writeable = False
        self._mask = mask

    def start(self) -> "NoCallState":
        """Begin one answer."""
        return NoCallState(self._mask)


class NoCallState:
    """One answer that must not call; it has no state."""

    is_complete = False
    """Never: text may always go on."""
    was_shortened = False
    """Never: text may end anywhere."""

    def __init__(self, mask: NDArray[np.uint32]) -> None:
        self._mask = mask

    def prepare(self, num_remaining: int) -> None:
        """Do nothing: the mask is always the same."""

    def mask(self) -> NDArray[np.uint32]:
        """Return every token but the marker's."""
        return self._mask

    def accept(self, token_id: int) -> None:
        """Do nothing."""


def _only(token_id: int, vocab_size: int) -> NDArray[np.uint32]:
    mask = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
    mask[token_id // 32] = np.uint32(1 << token_id % 32)
    return mask
