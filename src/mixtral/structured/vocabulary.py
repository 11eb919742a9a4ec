"""The pieces of a tokenizer as the grammar engine sees them: bytes, once each.

llguidance keeps the tokens in a trie over their bytes. Three things of SentencePiece do not fit
into a trie and are put right here:

- A byte token such as ``<0x7B>`` has the same bytes as the piece ``{``. The piece is kept, because
  the model was trained on it; a byte token stays only where no piece has its byte.
- Decoding drops one leading space of an answer, so ``{`` and a piece of space and ``{`` are the
  same text there. ``Vocabulary.first_words`` finds the tokens that may come first.
- Control tokens are no text. They have no bytes, so only a grammar that names one by its id, as
  ``<[5]>``, can allow it. The end token is set by llguidance where the text may end.

Padding ids, which a model may have behind its last piece, have no bytes and are never allowed.
"""

from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from mixtral.tokenizer import Tokenizer

Words = NDArray[np.uint32]
"""A set of tokens: ceil(V / 32) words, bit ``i % 32`` of word ``i // 32`` set for token i."""


class Vocabulary:
    """Bytes of every token, the engine's tables, and sets of tokens.

    Attributes:
        vocab_size: V, the rows of the model, at least the number of pieces.
        num_words: ceil(V / 32).
        eos_id: The end token.
        token_bytes: Bytes of each of the V tokens; empty for those that have no text of their own.
        control_ids: Tokens that are never text.
        tables: llguidance's table of the tokens.
        byte_ids: The token of each of the 256 bytes.
        space_id: The token that is one space; alone at the start of an answer it gives no text.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        """Read all pieces; about 0.3 s for 32,768."""
        self.vocab_size = vocab_size
        self.num_words = (vocab_size + 31) // 32
        self.eos_id = tokenizer.eos_id
        self.control_ids = frozenset(tokenizer.control_ids)
        self.token_bytes = _distinct_bytes(tokenizer, vocab_size)
        self._ids = {text: i for i, text in enumerate(self.token_bytes) if text}
        self._longest = max(map(len, self.token_bytes))
        self.byte_ids = [self._ids[bytes([byte])] for byte in range(256)]
        self.space_id = self._ids[b" "]
        self.tables = self._build_tables(self.token_bytes, tokenizer.bos_id)
        # [V]: the token that is token i without its leading space, i where it has none, V for none.
        self._bare = np.full(vocab_size, vocab_size, dtype=np.int64)
        # Tokens with a leading space that have no such token: their bare texts by first byte.
        self._unpaired: dict[int, list[tuple[int, list[int]]]] = {}
        self._find_bare()

    def words(self, is_in: Callable[[bytes], bool]) -> Words:
        """Return the set of the tokens whose bytes fulfil a condition."""
        return pack(np.array([bool(text) and is_in(text) for text in self.token_bytes]))

    def single(self, token_id: int) -> Words:
        """Return the set of one token."""
        words = np.zeros(self.num_words, dtype=np.uint32)
        words[token_id // 32] = np.uint32(1 << token_id % 32)
        return words

    def id_of(self, text: bytes) -> int | None:
        """Return the token that has exactly these bytes, or None."""
        return self._ids.get(text)

    def ids_of(self, text: bytes) -> list[int]:
        """Return tokens that make up these bytes, each as long as possible, from the left."""
        ids, start = [], 0
        while start < len(text):
            for length in range(min(self._longest, len(text) - start), 0, -1):
                token_id = self._ids.get(text[start : start + length])
                if token_id is not None:
                    ids.append(token_id)
                    start += length
                    break
        return ids

    def first_text(self, token_id: int) -> bytes:
        """Return the bytes that a token gives when it is the first of an answer."""
        text = self.token_bytes[token_id]
        return text[1:] if text.startswith(b" ") else text

    def first_words(self, matcher: LLMatcher, words: Words) -> Words:
        """Return the tokens that may come first in an answer.

        Args:
            matcher: The state at the start.
            words: Its mask.
        """
        bits = np.append(unpack(words)[: self.vocab_size], np.False_)
        first = bits[self._bare]
        for byte, tokens in self._unpaired.items():
            if bits[self.byte_ids[byte]]:
                for token_id, spelled in tokens:
                    first[token_id] = matcher.validate_tokens(spelled) == len(spelled)
        # A single space gives no text here; it leads to texts that begin with a space.
        first[self.space_id] = bits[self.space_id]
        return pack(first)

    def _find_bare(self) -> None:
        self._bare[list(self.control_ids)] = list(self.control_ids)
        for token_id, text in enumerate(self.token_bytes):
            if not text.startswith(b" "):
                self._bare[token_id] = token_id
            elif len(text) > 1:
                bare = self._ids.get(text[1:])
                if bare is not None:
                    self._bare[token_id] = bare
                else:
                    tokens = self._unpaired.setdefault(text[1], [])
                    tokens.append((token_id, self.ids_of(text[1:])))

    def _build_tables(self, token_bytes: Sequence[bytes], bos_id: int) -> LLTokenizer:
        pieces = _Pieces(token_bytes, vocabulary=self, bos_id=bos_id)
        return LLTokenizer(TokenizerWrapper(pieces), slices=LLTokenizer.json_slices())


class _Pieces:
    """What llguidance's wrapper of a tokenizer asks for."""

    def __init__(
        self, token_bytes: Sequence[bytes], *, vocabulary: Vocabulary, bos_id: int
    ) -> None:
        control_ids = vocabulary.control_ids
        self.eos_token_id = vocabulary.eos_id
        self.bos_token_id = bos_id
        self.special_token_ids = sorted(control_ids)
        # llguidance wants a name for each special token; it is never matched as text.
        self.tokens = [
            f"<control {i}>".encode() if i in control_ids else text
            for i, text in enumerate(token_bytes)
        ]
        self._byte_ids = {text: i for i, text in enumerate(token_bytes) if len(text) == 1}

    def __call__(self, text: bytes) -> list[int]:
        return [self._byte_ids[bytes([byte])] for byte in text]


def fill_mask(matcher: LLMatcher, words: Words) -> None:
    """Write the tokens that a matcher allows next into ``words``; other threads run meanwhile."""
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)


def unpack(words: Words) -> NDArray[np.bool_]:
    """Return one boolean per bit, [32 * number of words]."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)


def pack(bits: NDArray[np.bool_]) -> Words:
    """Return the words of one boolean per token."""
    padded = np.zeros((len(bits) + 31) // 32 * 32, dtype=np.bool_)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view(np.uint32)


def _distinct_bytes(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """Return the bytes of each token, empty where it has no text or another token stands for it."""
    texts = [
        b"" if i in tokenizer.control_ids else tokenizer.token_bytes(i)
        for i in range(tokenizer.vocab_size)
    ]
    is_byte = [tokenizer.is_byte(i) for i in range(tokenizer.vocab_size)]
    pieces = {text for text, byte in zip(texts, is_byte, strict=True) if not byte}
    distinct = [
        b"" if byte and text in pieces else text for text, byte in zip(texts, is_byte, strict=True)
    ]
    return distinct + [b""] * (vocab_size - len(distinct))
