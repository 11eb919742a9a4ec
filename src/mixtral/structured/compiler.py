r"""Response formats, schemas, patterns and choices into grammars.

``GrammarCompiler.compile`` takes what a client sends as ``response_format``:

    {"type": "text"}                                       no grammar
    {"type": "json_object"}                                any JSON object
    {"type": "json_schema", "json_schema": {"name": "n", "schema": {...}, "strict": true}}
    {"type": "regex", "regex": "[0-9]{4}"}                 our own: the whole text matches
    {"type": "choice", "choice": ["yes", "no"]}            our own: one of these texts

JSON is written compactly, with at most one space after a comma and a colon: ``{"a": 1, "b":[1]}``.
Free whitespace would let a weak model write nothing else until the tokens are used up. Properties
come in the order of the schema. Characters stand for themselves, never as ``\u0041``: an escaped
name of a property would get around the schema of that property.

Compiled grammars are kept, the ones used last; a schema with other spaces or another order of its
properties is another one.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from llguidance import LLMatcher

from mixtral.errors import InvalidRequest
from mixtral.structured.grammar import Grammar
from mixtral.structured.limits import check_size, check_unicode
from mixtral.structured.making import GrammarMaker
from mixtral.structured.patterns import PatternError, quote_pattern, read_pattern
from mixtral.structured.response_format import read_response_format
from mixtral.structured.schema_check import check_schema
from mixtral.tokenizer import Tokenizer

MAX_CHOICES = 10_000
"""Texts of a choice."""

MAX_CHOICE_CHARACTERS = 200_000
"""Characters of all texts of a choice."""

MAX_CACHED = 64
"""Compiled grammars that are kept."""


class GrammarCompiler:
    """Compiles for one model; may be used from several threads.

    The first compilation reads the tokenizer, about 0.4 s.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        """Keep the tokenizer for the first compilation.

        Args:
            tokenizer: The model's tokenizer.
            vocab_size: V, the rows of the model, which may be more than the tokenizer has pieces.
        """
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, tokenizer.vocab_size)
        self._lock = Lock()
        self._maker_lock = Lock()
        self._made: GrammarMaker | None = None
        self._cache: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, response_format: Mapping[str, Any]) -> Grammar | None:
        """Compile the ``response_format`` of a request; None where any text will do.

        Raises:
            InvalidRequest: It is malformed, or cannot be held; the message names the keyword.
        """
        kind, value = read_response_format(response_format)
        if kind == "text":
            return None
        if kind == "json_object":
            return self.json_object()
        if kind == "json_schema":
            return self.json_schema(value)
        return self.regex(value) if kind == "regex" else self.choice(value)

    def json_object(self) -> Grammar:
        """Compile "any JSON object"."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Mapping[str, Any] | bool) -> Grammar:
        """Compile a JSON schema; every text of the grammar is valid under it.

        Raises:
            InvalidRequest: The schema is invalid, or has a keyword that cannot be held.
        """
        name = "the schema"
        check_size(schema, name=name)
        check_unicode(schema, name=name)
        return self._cached(
            "json_schema", schema, lambda: self._maker.schema(check_schema(schema), name=name)
        )

    def regex(self, pattern: str) -> Grammar:
        """Compile a regular expression that the whole text matches, as ``re.fullmatch`` does.

        Raises:
            InvalidRequest: It is none, or has parts such as look-ahead that cannot be held.
        """
        if not isinstance(pattern, str):
            raise InvalidRequest(f"regex has type {type(pattern).__name__}; it must be a string")
        check_unicode(pattern, name="regex")

        def make() -> Grammar:
            try:
                read = read_pattern(pattern, is_search=False)
            except PatternError as error:
                raise InvalidRequest(f"regex {pattern[:80]!r} {error}") from None
            source = LLMatcher.grammar_from_regex(read.regex)
            return self._maker.grammar(source, name="regex", examples=read.examples)

        return self._cached("regex", pattern, make)

    def choice(self, options: Sequence[str]) -> Grammar:
        """Compile a choice between texts.

        Raises:
            InvalidRequest: It is no list of strings, or an empty or too large one.
        """
        is_list = isinstance(options, Sequence) and not isinstance(options, (str, bytes))
        if not is_list or not options or not all(isinstance(o, str) and o for o in options):
            raise InvalidRequest("choice must be a list of non-empty strings")
        num_characters = sum(map(len, options))
        if len(options) > MAX_CHOICES or num_characters > MAX_CHOICE_CHARACTERS:
            raise InvalidRequest(
                f"choice has {len(options):,} texts of {num_characters:,} characters; up to "
                f"{MAX_CHOICES:,} and {MAX_CHOICE_CHARACTERS:,} are allowed"
            )
        check_unicode(list(options), name="choice")

        def make() -> Grammar:
            source = LLMatcher.grammar_from_regex("|".join(map(quote_pattern, options)))
            shortest = min(options, key=len)
            return self._maker.grammar(source, name="choice", examples=[shortest], parts=options)

        return self._cached("choice", list(options), make)

    def lark(self, source: str) -> Grammar:
        """Compile a grammar in llguidance's variant of Lark.

        The grammar is taken as it is: a schema in ``%json`` is not checked. A leading space of the
        first token does not count, as ``decode`` drops it; after a control token, named by its id
        as ``<[5]>``, a space counts.

        Raises:
            InvalidRequest: llguidance cannot compile it.
        """
        check_unicode(source, name="the grammar")
        return self._cached(
            "lark",
            source,
            lambda: self._maker.grammar(LLMatcher.grammar_from_lark(source), name="the grammar"),
        )

    def _cached(self, kind: str, value: Any, make: Callable[[], Grammar]) -> Grammar:
        key = f"{kind} {json.dumps(value, ensure_ascii=False)}"
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        grammar = make()
        with self._lock:
            self._cache[key] = grammar
            while len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        return grammar

    @property
    def _maker(self) -> GrammarMaker:
        with self._maker_lock:
            if self._made is None:
                self._made = GrammarMaker(self._tokenizer, vocab_size=self._vocab_size)
            return self._made
