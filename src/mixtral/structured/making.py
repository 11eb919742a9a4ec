"""From a source that llguidance reads to a ``Grammar``, and from its errors to ours.

What llguidance may spend on one grammar is bounded by ``_LIMITS``; a schema that needs more is
refused. Its errors name no place. Where the keyword is one of those that it may refuse, the schemas
that have the keyword are compiled one by one until one fails, and the error names that one.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import nlargest
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from mixtral.errors import InvalidRequest
from mixtral.structured.closing import ClosingSearch, Hints, reaches_end
from mixtral.structured.grammar import Grammar, MaskTools
from mixtral.structured.json_text import MAX_DIGITS, JsonTracker
from mixtral.structured.node import EXAMPLES
from mixtral.structured.numbers import EXCLUSIVE_DIGITS
from mixtral.structured.schema_check import CheckedSchema
from mixtral.structured.shortest import ShortestTexts
from mixtral.structured.vocabulary import Vocabulary, fill_mask
from mixtral.tokenizer import Tokenizer

JSON_OPTIONS: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": 'nrbtf\\"',
}
"""How llguidance writes JSON."""

_LEAST_JUMP = 8
_UNKNOWN_JUMP = 256
_MOST_JUMP = 2048
_NUM_PARTS_COUNTED = 24
_MAX_PLACES_TRIED = 64
_MAX_REHEARSED = 100
_STRING_FACETS = ("pattern", "minLength", "maxLength", EXAMPLES)
_MAX_SEARCH_S = 1.0

# Words of llguidance's errors, the keyword they are about, and what to tell the user.
_ERRORS = (
    (
        "oneOf",
        "oneOf",
        "nothing shows that no answer fits two of its branches; use anyOf, or give "
        "each branch a required property with a const of its own",
    ),
    ("are disjoint", "patternProperties", "two of its patterns may match the same name"),
    ("not disjoint", "patternProperties", "two of its patterns match the same name"),
    ("min/maxProperties", "minProperties", "it counts optional properties"),
    ("min/maxProperties", "maxProperties", "it counts optional properties"),
    ("circular references", "$ref", "it leads back to itself with keywords beside it"),
    ("intersection stack", "allOf", "recursive schemas cannot be joined"),
    ("Regex is empty", "pattern", "no text that can be promised fits it and what is beside it"),
)


class GrammarMaker:
    """Makes the grammars of one model."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        """Read the tokenizer and start the threads that fill masks."""
        vocabulary = Vocabulary(tokenizer, vocab_size=vocab_size)
        num_threads = max(1, min(4, (os.cpu_count() or 2) // 2))
        self._tools = MaskTools(
            vocabulary=vocabulary,
            closing=ClosingSearch(vocabulary),
            executor=ThreadPoolExecutor(num_threads, thread_name_prefix="mixtral-masks"),
            zeros=vocabulary.words(lambda text: b"0" in text),
            digits=vocabulary.words(lambda text: any(48 <= byte < 58 for byte in text)),
            openers=vocabulary.words(lambda text: b"{" in text or b"[" in text),
            plain=vocabulary.words(_is_plain),
        )
        # At most a second and some 100 MB for one grammar, and 0.1 s for a mask; ordinary ones
        # need a hundredth.
        self._limits = LLParserLimits(
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=1_000_000,
            max_lexer_states=100_000,
            max_grammar_size=200_000,
            verbose_errors=False,
        )

    def schema(self, checked: CheckedSchema, *, name: str) -> Grammar:
        """Make the grammar of a schema.

        Raises:
            InvalidRequest: llguidance cannot hold it.
        """
        texts = ShortestTexts(checked.schema)
        guess, parts = texts.whole(), _largest(texts.parts())
        self._rehearse_patterns(checked)
        try:
            return self.grammar(
                _schema_source(checked.schema),
                name=name,
                guess=guess,
                examples=texts.examples(),
                parts=parts,
                least_jump=_LEAST_JUMP if texts.is_complete else _UNKNOWN_JUMP,
                has_name_patterns="patternProperties" in checked.places,
                tracker=JsonTracker(
                    max_fraction_digits=EXCLUSIVE_DIGITS if checked.is_exclusive else MAX_DIGITS
                ),
            )
        except InvalidRequest as error:
            self._find_place(checked, str(error))
            raise

    def grammar(
        self,
        source: str,
        *,
        name: str,
        guess: str | None = None,
        examples: Sequence[str] = (),
        parts: Iterable[str] = (),
        least_jump: int = _LEAST_JUMP,
        has_name_patterns: bool = False,
        tracker: JsonTracker | None = None,
    ) -> Grammar:
        """Make a grammar.

        Args:
            source: What llguidance compiles.
            name: What to call it in errors.
            guess: A short text that may be one of the grammar's.
            examples: Texts that its strings, or it as a whole, match.
            parts: Texts that one token may oblige an answer to write.
            least_jump: What to add to the largest part, for what the parts do not say.
            has_name_patterns: Whether the schema has ``patternProperties``.
            tracker: Where the texts are JSON, the tracker to start with.

        Raises:
            InvalidRequest: It cannot be compiled, or has no text that ends.
        """
        vocabulary = self._tools.vocabulary
        matcher = self._matcher(source)
        hints = Hints(vocabulary, examples, is_json=tracker is not None)
        words = np.zeros(vocabulary.num_words, dtype=np.uint32)
        closing: list[int] | None = None
        if not matcher.is_error():
            closing = self._first_closing(matcher, guess, hints, tracker)
            fill_mask(matcher, words)
        if matcher.is_error():
            error = _first_line(matcher.get_error())
            raise InvalidRequest(f"{name} cannot be enforced: {error}")
        if closing is None:
            raise InvalidRequest(f"{name} has no text that ends, or only very long ones")
        self._rehearse(matcher, closing, name)
        jump = max((len(vocabulary.ids_of(p.encode())) for p in _largest(parts)), default=0)
        return Grammar(
            tools=self._tools,
            matcher=matcher,
            first_words=vocabulary.first_words(matcher, words),
            closing=closing,
            hints=hints,
            max_jump=min(jump + least_jump, _MOST_JUMP),
            has_name_patterns=has_name_patterns,
            tracker=tracker,
        )

    def _first_closing(
        self, matcher: LLMatcher, guess: str | None, hints: Hints, tracker: JsonTracker | None
    ) -> list[int] | None:
        if guess is not None:
            closing = self._tools.vocabulary.ids_of(guess.encode())
            if reaches_end(matcher, closing):
                return closing
        return self._tools.closing.find(matcher, tracker, hints)

    def _rehearse(self, start: LLMatcher, closing: list[int], name: str) -> None:
        """Fill the masks of a text: some patterns are found to be too complex only there.

        The text may be a guess; where the grammar does not have it, the rest shows nothing.
        """
        matcher = start.deep_copy()
        words = np.zeros(self._tools.vocabulary.num_words, dtype=np.uint32)
        for token_id in closing[:_MAX_REHEARSED]:
            fill_mask(matcher, words)
            if not matcher.is_error() and not matcher.validate_tokens([token_id]):
                return
            matcher.consume_token(token_id)
            if matcher.is_error():
                error = _first_line(matcher.get_error())
                raise InvalidRequest(f"{name} cannot be enforced: {error}")

    def _rehearse_patterns(self, checked: CheckedSchema) -> None:
        """Rehearse a text of each pattern by itself, as the shortest answer may have none."""
        done: set[str] = set()
        for pointer, schema in checked.places.get("pattern", []):
            # Other keywords beside it, such as enum, may have a text that is no string of it.
            facets = {k: schema[k] for k in _STRING_FACETS if k in schema}
            alone: dict[str, Any] = {"type": "string", **facets}
            source = _schema_source(alone)
            if source in done or len(done) >= _MAX_REHEARSED:
                continue
            done.add(source)
            matcher = self._matcher(source)
            text = ShortestTexts(alone).whole()
            if text is not None and not matcher.is_error():
                closing = self._tools.vocabulary.ids_of(text.encode())
                self._rehearse(matcher, closing, f"the schema's pattern at {pointer}/pattern")

    def _matcher(self, source: str) -> LLMatcher:
        return LLMatcher(self._tools.vocabulary.tables, source, log_level=0, limits=self._limits)

    def _find_place(self, checked: CheckedSchema, error: str) -> None:
        """Raise an error with the place of the keyword, if it is one that llguidance may refuse."""
        definitions = checked.schema.get("$defs", {})
        deadline = time.monotonic() + _MAX_SEARCH_S
        for words, keyword, explanation in _ERRORS:
            if words not in error:
                continue
            for pointer, schema in checked.places.get(keyword, [])[:_MAX_PLACES_TRIED]:
                if time.monotonic() > deadline:
                    return
                if self._matcher(_schema_source({**schema, "$defs": definitions})).is_error():
                    raise InvalidRequest(
                        f"the schema's {keyword} at {pointer}/{keyword} cannot be enforced: "
                        f"{explanation}"
                    ) from None


def _schema_source(schema: Mapping[str, Any]) -> str:
    # Without forcing, text that the schema fixes may be any tokens: the model spells it as it
    # learned to. llguidance would force it byte by byte, which weak models answer with nonsense.
    body = json.dumps({**schema, "x-guidance": JSON_OPTIONS})
    return str(
        LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\nstart: %json {body}')
    )


def _largest(parts: Iterable[str]) -> list[str]:
    """Return the longest texts; the tokens of all would take too long to count."""
    return nlargest(_NUM_PARTS_COUNTED, set(parts), key=len)


def _first_line(error: str) -> str:
    line = error.strip().splitlines()[0][:300] if error.strip() else "it is too complex"
    line = line.rsplit("failed to compile JSON schema: ", maxsplit=1)[-1]
    return "no text fits it" if line.startswith("NoExtension") else line


def _is_plain(text: bytes) -> bool:
    return all(32 <= byte < 127 and byte not in b'"\\' for byte in text)
