"""Find few tokens that bring a text to a valid end, wherever it is now.

A grammar state knows which tokens may come next, not which of them lead to the end soon. So the
search walks: from a copy of the state it takes the token that looks most like an end (closing
brackets, closing quotes, then short values, commas, and inside a string the longest filler) until
the text could end. Masks are exact, so every walk that arrives is a valid text. Some grammars lead
such a walk in circles, as ``a*b`` or a multiple of 7 do; further walks go byte by byte, the first
taking the bytes used least so far, the others by lot with a fixed seed. The shortest walk is the
answer; it need not be the shortest there is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from random import Random

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from mixtral.structured.json_text import JsonTracker
from mixtral.structured.vocabulary import Vocabulary, Words, fill_mask, unpack

MAX_CLOSING_TOKENS = 4096
"""Where a walk gives up: no answer has a tail that long within a small ``max_tokens``."""

_NUM_RANDOM_WALKS = 3
_MAX_ENDS = 2000
_SHORT = 32
_MOST_SKIPPED = 3
_PUNCTUATION = b"@.:/-_#T+Z "


class Hints:
    """Ends of texts that match the patterns of a grammar.

    A string with a pattern, cut off anywhere, often becomes whole with the rest of an example: the
    e-mail address "ab" with the end "@a" of "a@a". The ends of all examples are kept by their first
    byte, the short ones first.
    """

    def __init__(self, vocabulary: Vocabulary, examples: Iterable[str], *, is_json: bool) -> None:
        """Keep the examples; their ends are made when they are first looked for."""
        self._vocabulary = vocabulary
        self._examples = list(examples)
        self._is_json = is_json

    @cached_property
    def _ends(self) -> dict[int, list[list[int]]]:
        ends: set[bytes] = set()
        for example in self._examples:
            text = json.dumps(example, ensure_ascii=False)[1:] if self._is_json else example
            encoded = text.encode()
            if len(ends) + len(encoded) <= _MAX_ENDS:
                ends.update(encoded[start:] for start in range(len(encoded)))
        by_byte: dict[int, list[list[int]]] = {}
        for end in sorted(ends, key=len):
            by_byte.setdefault(end[0], []).append(self._vocabulary.ids_of(end))
        return by_byte

    def find(
        self, matcher: LLMatcher, words: Words, tracker: JsonTracker | None
    ) -> list[int] | None:
        """Return the tokens of an end that a state takes; ``words`` is its mask."""
        byte_ids = self._vocabulary.byte_ids
        for byte, ends in self._ends.items():
            token_id = byte_ids[byte]
            if int(words[token_id // 32]) >> token_id % 32 & 1:
                for end in ends:
                    if matcher.validate_tokens(end) == len(end) and (
                        self._closes(tracker, end) if tracker else reaches_end(matcher, end)
                    ):
                        return end
        return None

    def _closes(self, tracker: JsonTracker, end: list[int]) -> bool:
        r"""Tell whether a string ends with an end: in ``\"`` cut to ``"`` the quote is a text."""
        after = tracker.copy()
        after.push(b"".join(self._vocabulary.token_bytes[i] for i in end))
        return not after.is_in_string


class ClosingSearch:
    """The search for one vocabulary; used by several threads at once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Rank all tokens."""
        self._vocabulary = vocabulary
        texts = vocabulary.token_bytes
        # [V]: lower is nearer to the end of the text, outside and inside of a JSON string.
        self._outside = np.array([_rank_outside(text) for text in texts], dtype=np.int16)
        self._inside = np.array([_rank_inside(text) for text in texts], dtype=np.int16)
        self._filler = np.array([100 - len(text) for text in texts], dtype=np.int16)
        self._single = vocabulary.words(lambda text: len(text) == 1)
        self._closers = vocabulary.words(lambda text: text.startswith(b'"'))

    def find(
        self,
        matcher: LLMatcher,
        tracker: JsonTracker | None,
        hints: Hints,
        *,
        known: list[int] | None = None,
        max_tokens: int = MAX_CLOSING_TOKENS,
    ) -> list[int] | None:
        """Return tokens after which the text may end, or None when no walk arrived.

        Args:
            matcher: The state; it stays as it is.
            tracker: Where in a JSON text it is; None for other texts.
            hints: Ends of strings to try.
            known: The closing of an earlier state. A walk that comes to where it holds takes it.
            max_tokens: Longest list to look for.
        """
        best: list[int] | None = None
        for choice in self._choices(is_json=tracker is not None):
            limit = min(max_tokens * 4, choice.max_steps) if best is None else len(best) - 1
            found = self._walk(matcher, tracker, hints, choice, limit, known or [])
            if found is not None:
                found = self._shortest_spelling(matcher, found)
                best = found if best is None or len(found) < len(best) else best
            if best is not None and len(best) <= max(_SHORT, max_tokens // 2):
                break
        return best if best is not None and len(best) <= max_tokens else None

    def _choices(self, *, is_json: bool) -> Iterator["_Greedy | _ByBytes"]:
        yield _Greedy(self, is_json=is_json)
        yield _ByBytes(self, None)
        for seed in range(_NUM_RANDOM_WALKS):
            yield _ByBytes(self, Random(seed))

    def _walk(
        self,
        start: LLMatcher,
        start_tracker: JsonTracker | None,
        hints: Hints,
        choice: "_Greedy | _ByBytes",
        max_steps: int,
        known: list[int],
    ) -> list[int] | None:
        matcher = start.deep_copy()
        tracker = start_tracker.copy() if start_tracker else None
        vocabulary = self._vocabulary
        words = np.zeros(vocabulary.num_words, dtype=np.uint32)
        path: list[int] = []
        while not matcher.is_accepting():
            if len(path) > max_steps or matcher.is_error():
                return None
            forced = matcher.compute_ff_bytes()
            # llguidance writes a control token as the byte 0xff and its id.
            step = [] if b"\xff" in forced else vocabulary.ids_of(forced)
            if not step:
                fill_mask(matcher, words)
                is_in_string = tracker.is_in_string if tracker else True
                can_close = tracker is not None and (words & self._closers).any()
                if is_in_string and not can_close:
                    step = hints.find(matcher, words, tracker) or []
                step = step or choice(words, is_in_string)
            if not step or not matcher.consume_tokens(step):
                return None
            if tracker:
                tracker.push(b"".join(vocabulary.token_bytes[i] for i in step))
            path += step
            for skipped in range(min(_MOST_SKIPPED, len(known))):
                if reaches_end(matcher, known[skipped:]):
                    return path + known[skipped:]
        return path

    def _shortest_spelling(self, matcher: LLMatcher, path: list[int]) -> list[int]:
        """Write the same bytes with fewer tokens where the grammar takes them."""
        texts = self._vocabulary.token_bytes
        if not all(texts[i] for i in path):
            return path
        spelled = self._vocabulary.ids_of(b"".join(texts[i] for i in path))
        is_shorter = len(spelled) < len(path)
        return spelled if is_shorter and reaches_end(matcher, spelled) else path


class _Greedy:
    """Take the allowed token with the lowest rank."""

    max_steps = MAX_CLOSING_TOKENS

    def __init__(self, search: ClosingSearch, *, is_json: bool) -> None:
        self._inside = search._inside if is_json else search._filler
        self._outside = search._outside

    def __call__(self, words: Words, is_in_string: bool) -> list[int]:
        ids = np.flatnonzero(unpack(words)[: len(self._inside)])
        if not len(ids):
            return []
        ranks: NDArray[np.int16] = self._inside if is_in_string else self._outside
        return [int(ids[ranks[ids].argmin()])]


class _ByBytes:
    """Take one byte: an end if possible, else the one used least, or one by lot."""

    max_steps = 400

    def __init__(self, search: ClosingSearch, random: Random | None) -> None:
        self._vocabulary = search._vocabulary
        self._single = search._single
        self._random = random
        self._num_used: Counter[int] = Counter()

    def __call__(self, words: Words, is_in_string: bool) -> list[int]:
        ids: list[int] = np.flatnonzero(unpack(words & self._single)).tolist()
        if not ids:
            ids = np.flatnonzero(unpack(words)).tolist()[:1]
            return [i for i in ids if i != self._vocabulary.eos_id]
        texts = self._vocabulary.token_bytes
        closing = b'"' if is_in_string else b"}]"
        for token_id in ids:
            if texts[token_id] in closing:
                return [token_id]
        if self._random is not None:
            return [self._random.choice(ids)]
        best = min(ids, key=lambda i: (self._num_used[i], texts[i] not in _PUNCTUATION, i))
        self._num_used[best] += 1
        return [best]


def reaches_end(matcher: LLMatcher, path: list[int]) -> bool:
    """Tell whether a state takes these tokens and the text may end after them."""
    if matcher.validate_tokens(path) != len(path):
        return False
    copy = matcher.deep_copy()
    return bool(copy.consume_tokens(path)) and bool(copy.is_accepting())


def _rank_outside(text: bytes) -> int:
    """Rank a token between the strings of a JSON text."""
    if not text:
        return 1000
    fixed = {b",": 12, b"0": 15, b"[]": 16, b"{}": 16, b'""': 19, b'"': 20, b"[": 40, b"{": 41}
    if set(text) <= set(b"}]"):
        return 10 - min(len(text), 9)
    if text in (b"null", b"true", b"false"):
        return 14
    if text in fixed:
        return fixed[text]
    if text.isdigit():
        return 17
    return 100 - len(text)


def _rank_inside(text: bytes) -> int:
    """Rank a token inside a JSON string."""
    if not text:
        return 1000
    if text.startswith(b'"'):
        return 20 - min(len(text), 9) if set(text[1:]) <= set(b"}]") else 30
    return 100 - len(text)
