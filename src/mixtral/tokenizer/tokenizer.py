r"""One tokenizer: text to ids, ids to text, messages to ids.

SentencePiece writes a space as the character U+2581 in its pieces and puts one in front of every
text, so that a word has the same id at the start of a text as in the middle. Decoding drops that
one space again, once, at the start of the whole list. A character without a piece of its own is
written as its UTF-8 bytes, one ``<0xE2>`` piece each.

Control tokens (``<s>``, ``</s>``; in v3 also ``[INST]`` and the other ids from 3 to 750) have no
spelling in text: ``encode`` reads "[INST]" as the ordinary pieces ``[``, ``INST``, ``]``. Only the
chat template places control tokens. In v1 the template itself spells ``[INST]`` with ordinary
pieces, so there a user can write what the template writes; that is a property of the 8x7B model.
``[REFERENCE_DOC_0]`` to ``[REFERENCE_DOC_19]`` (v3, ids 770 to 751) are text with an id of its own,
which a user may write: they mark nothing in any template, and they decode to their spelling.

What comes back from a round trip: ``decode(encode(s)) == s.replace("\u2581", " ")`` for every
``s`` without lone surrogates, and ``encode`` of the result gives the same ids again. U+2581 is the
only character that SentencePiece cannot tell from another one.

Adding tokens, training a tokenizer, and the later Mistral tokenizers (v7, tekken) are not here.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceProcessor

from mixtral.errors import InvalidRequest, UnsupportedError
from mixtral.tokenizer.chat import ChatTemplate, check_unicode, with_safe_prompt

SPACE = "\u2581"
"""How SentencePiece spells a space inside a piece."""

logger = logging.getLogger(__name__)


class Tokenizer:
    """The tokenizer and chat template of one model; make one with ``load_tokenizer``.

    It has no changing state and may be used from several threads.

    Attributes:
        version: "v1" (Mixtral 8x7B) or "v3" (Mixtral 8x22B).
        source: Where it was read from, in words, for reports.
        vocab_size: Number of pieces. The model may have more rows, see ``num_padding_ids``.
        num_padding_ids: Rows of the model's embedding behind the last piece; they have no text.
        bos_id: Id of ``<s>``.
        eos_id: Id of ``</s>``.
        control_ids: Ids that no text encodes to: the control tokens and ``<unk>``.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        version: Literal["v1", "v3"],
        source: str,
        num_padding_ids: int = 0,
    ) -> None:
        """Read a SentencePiece file whose version is known; ``load_tokenizer`` finds it out."""
        self._model_path = model_path
        self._model = SentencePieceProcessor(model_file=str(model_path))
        self._warned_about_tools = False
        self.version: Literal["v1", "v3"] = version
        self.source = source
        self.vocab_size = int(self._model.vocab_size())
        self.num_padding_ids = num_padding_ids
        self.bos_id = int(self._model.bos_id())
        self.eos_id = int(self._model.eos_id())
        self._unk_id = int(self._model.unk_id())
        self.control_ids = frozenset(
            i for i in range(self.vocab_size) if self._model.IsControl(i) or i == self._unk_id
        )
        # Decoding after an ordinary piece is what keeps the leading space of the pieces behind it.
        self._anchor_id = int(self._model.piece_to_id("a"))
        self._anchor_text = str(self._model.decode([self._anchor_id]))

    def __repr__(self) -> str:
        """Show version, size and source."""
        return f"Tokenizer({self.version}, {self.vocab_size} pieces, {self.source})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the template out of a pickle: its own would take the version from the file name."""
        return {name: value for name, value in self.__dict__.items() if name != "_template"}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Return the ids of a text; nothing in it can become a control token.

        Args:
            text: Any text that is valid Unicode.
            bos: Put ``<s>`` in front, as the models were trained.

        Raises:
            InvalidRequest: ``text`` is not a string, or holds half of a surrogate pair.

        >>> from mixtral.tokenizer import load_tokenizer
        >>> load_tokenizer("v3").encode("[INST]", bos=False)
        [1501, 17057, 29561]
        """
        if not isinstance(text, str):
            raise InvalidRequest(f"text has type {type(text).__name__}; it must be a string")
        check_unicode(text, name="text")
        token_ids = [int(i) for i in self._model.encode(text)]
        return [self.bos_id, *token_ids] if bos else token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        r"""Return the text of a whole list of ids, as SentencePiece reads it.

        Control tokens and padding ids give no text, one leading space is dropped, ``<unk>`` reads
        " \u2047 ", and each byte that is not part of a UTF-8 character reads U+FFFD.

        Raises:
            InvalidRequest: An id is outside the model's vocabulary.
        """
        return str(self._model.decode(self._checked(token_ids)))

    def decode_continuation(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids that follow other text: like ``decode``, leading space kept."""
        anchored = [self._anchor_id, *self._checked(token_ids)]
        return str(self._model.decode(anchored))[len(self._anchor_text) :]

    def decode_token(self, token_id: int) -> str:
        r"""Name one token, as lists of log-probabilities show it.

        The leading space stays; a control token shows its name; a byte that is no character by
        itself shows as OpenAI's API does it.

        >>> from mixtral.tokenizer import load_tokenizer
        >>> tokenizer = load_tokenizer("v3")
        >>> [tokenizer.decode_token(i) for i in (2, 23325, 781, 997)]
        ['</s>', ' Hello', '\n', 'bytes:\\xe2']
        """
        if token_id in self.control_ids:
            return str(self._model.id_to_piece(token_id))
        token_bytes = self.token_bytes(token_id)
        if len(token_bytes) == 1 and token_bytes[0] > 0x7F:
            return f"bytes:\\x{token_bytes[0]:02x}"
        return token_bytes.decode("utf-8")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that one token adds to a text; none for control and padding."""
        if not self._checked([token_id]) or self._model.IsControl(token_id):
            return b""
        if token_id == self._unk_id:
            return self.decode([token_id]).encode()
        piece = str(self._model.id_to_piece(token_id))
        if self._model.IsByte(token_id):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE, " ").encode()

    def is_byte(self, token_id: int) -> bool:
        """Tell whether a token is one byte of a character that has no piece of its own."""
        return bool(self._checked([token_id])) and bool(self._model.IsByte(token_id))

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        safe_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Return the ids of a conversation, exactly those of mistral-common, ready to be answered.

        The v1 template has no place for tools, and mistral-common leaves them out; so does this
        method, with one logged warning per tokenizer. Tool calls and results are errors in v1.

        Args:
            messages: ``role`` and ``content`` each, in OpenAI's or Mistral's spelling; see the
                ``chat`` module for what is put right and what is refused.
            tools: Functions the model may call, in OpenAI's spelling.
            safe_prompt: Put the official safety text in front of the system text.
            continue_final_message: Let the model go on with the last message, an assistant's.

        Raises:
            InvalidRequest: The conversation is not one that the template can write.
        """
        if safe_prompt:
            messages = with_safe_prompt(messages)
        token_ids = self._template.encode(
            messages, tools=tools, continue_final_message=continue_final_message
        )
        if tools and self.version == "v1" and not self._warned_about_tools:
            self._warned_about_tools = True
            logger.warning(
                "%d tools were given, but the v1 template of Mixtral 8x7B has no tokens for tools "
                "and leaves them out; use a v3 model (8x22B) or describe the tools in the prompt",
                len(tools),
            )
        return token_ids

    def encode_fim(self, prompt: str, suffix: str | None = None) -> list[int]:
        """Return the ids that ask for the text between ``prompt`` and ``suffix`` (v3 only).

        Raises:
            UnsupportedError: This is a v1 tokenizer, which has no tokens for it.
            InvalidRequest: One of the texts is not a string of valid Unicode.
        """
        if self.version == "v1":
            raise UnsupportedError(
                "fill-in-the-middle needs the [SUFFIX] and [PREFIX] tokens of a v3 tokenizer "
                "(Mixtral 8x22B); this model has v1"
            )
        for name, text in (("prompt", prompt), ("suffix", "" if suffix is None else suffix)):
            if not isinstance(text, str):
                raise InvalidRequest(f"{name} has type {type(text).__name__}; it must be a string")
            check_unicode(text, name=name)
        return self._template.encode_fim(prompt, suffix)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._model_path, version=self.version)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        """Return the ids that have a piece, after refusing those that not even the model has."""
        checked = [index(i) for i in token_ids]
        limit = self.vocab_size + self.num_padding_ids
        if checked and (min(checked) < 0 or max(checked) >= self.vocab_size):
            for token_id in checked:
                if not 0 <= token_id < limit:
                    raise InvalidRequest(f"token id {token_id} is outside 0..{limit - 1}")
            checked = [i for i in checked if i < self.vocab_size]
        return checked
