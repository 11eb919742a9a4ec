"""From texts and token ids to what one forward pass reads, in the words of the model's tokenizer.

A sentence-transformers model reads ``prefix + content + suffix``, such as [CLS] ... [SEP]. Content
that does not fit is cut, at the side where the tokenizer would cut it. Done here, rather than by
the tokenizer, because then texts and lists of ids take the same way, what was cut is known, and
tokens are counted once. ``Reader`` compares itself with the library when it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from mixtral.errors import InvalidRequest, UnsupportedError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MAX_TOKENS = 32_768
"""What is read of an input by a model that knows no limit of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One input, ready to run."""

    token_ids: list[int]
    """What the model reads, special tokens included."""
    is_cut: bool
    """Whether something did not fit."""


class Reader:
    """Turns the inputs of one model into pieces. Not thread-safe, as its tokenizer is not.

    Args:
        model: The model.
        name: What to call it in messages.

    Raises:
        UnsupportedError: The model has no text tokenizer, or one that puts its special tokens
            elsewhere than before and after the content.
    """

    def __init__(self, model: "SentenceTransformer", *, name: str) -> None:
        tokenizer = model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UnsupportedError(
                f"{name} has no tokenizer of transformers; choose a model that embeds texts with a "
                "transformer, such as BAAI/bge-m3."
            )
        self._tokenizer = tokenizer
        if not model.max_seq_length or model.max_seq_length > MAX_TOKENS:
            model.max_seq_length = MAX_TOKENS
        self._prompt = model.prompts.get(model.default_prompt_name or "") or ""
        self._prefix, self._suffix = self._special_tokens(name)
        self._room = int(model.max_seq_length) - len(self._prefix) - len(self._suffix)
        self.vocab_size = len(tokenizer)
        """Token ids are below this."""
        self._check_against(model, name)

    @property
    def max_tokens(self) -> int:
        """Tokens that the model reads at most, special tokens included."""
        return self._room + len(self._prefix) + len(self._suffix)

    def read(self, inputs: Sequence[str | Sequence[int]]) -> list[Piece]:
        """Return the inputs as the model reads them.

        A text is tokenized, behind the model's default prompt if it has one. A list of ids is
        content, or content between the special tokens; both give the same piece.

        Raises:
            InvalidRequest: An id is outside the vocabulary.
        """
        texts = [self._prompt + value for value in inputs if isinstance(value, str)]
        tokenized = iter(self._tokenize(texts) if texts else [])
        return [
            self._piece(
                next(tokenized) if isinstance(value, str) else self._content(index, list(value))
            )
            for index, value in enumerate(inputs)
        ]

    def _tokenize(self, texts: list[str], *, special: bool = False) -> list[list[int]]:
        # verbose: it would warn of long texts, which are cut here.
        encoded = self._tokenizer(
            texts, add_special_tokens=special, truncation=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _content(self, index: int, ids: list[int]) -> list[int]:
        for place, token_id in enumerate(ids):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequest(
                    f"inputs[{index}][{place}] is {token_id}; ids of the embedding model's own "
                    f"tokenizer go from 0 to {self.vocab_size - 1}. Send texts if yours are of "
                    "another one."
                )
        begin, end = len(self._prefix), len(ids) - len(self._suffix)
        is_whole = begin + end and ids[:begin] == self._prefix and ids[end:] == self._suffix
        return ids[begin:end] if is_whole and begin <= end else ids

    def _piece(self, content: list[int]) -> Piece:
        is_cut = len(content) > self._room
        if is_cut and self._tokenizer.truncation_side == "left":
            content = content[-self._room :]
        elif is_cut:
            content = content[: self._room]
        return Piece(token_ids=[*self._prefix, *content, *self._suffix], is_cut=is_cut)

    def _special_tokens(self, name: str) -> tuple[list[int], list[int]]:
        (bare,) = self._tokenize(["a"])
        (whole,) = self._tokenize(["a"], special=True)
        for begin in range(len(whole) - len(bare) + 1):
            end = begin + len(bare)
            if bare and whole[begin:end] == bare:
                return whole[:begin], whole[end:]
        raise UnsupportedError(f"the tokenizer of {name} is of a kind that cannot be read here.")

    def _check_against(self, model: "SentenceTransformer", name: str) -> None:
        # The second one is cut.
        texts = ["Is this read the same way?", "one two three " * self._room]
        for text, piece in zip(texts, self.read(texts), strict=True):
            theirs = model.preprocess([text], prompt=self._prompt)["input_ids"][0].tolist()
            if theirs != piece.token_ids:
                raise UnsupportedError(
                    f"the tokenizer of {name} is read differently by sentence-transformers; "
                    "choose another model."
                )
