"""The passkey task: a number hidden in a long text, and the question what it was.

Source of the task and of its words: Landmark Attention (Mohtashami and Jaggi, arXiv:2305.16300,
section 4.2 and https://github.com/epfml/landmark-attention, ``llama/run_test.py``); Mixtral finds
the key at every place of its 32k tokens (arXiv:2401.04088, section 3.2). A prompt is

    There is an important info hidden inside a lot of irrelevant text. Find it and ...
    The grass is green. The sky is blue. ...          filler, as much as the depth says
    The pass key is 71432. Remember it. 71432 is the pass key.
    The grass is green. The sky is blue. ...          the rest of the filler
    What is the pass key? The pass key is

as a text to complete (base models), or as a message to answer (instruction models), without the
last four words.

**Length is exact.** A length of 4,096 means that prompt and answer together take 4,096 tokens: a
model with that context can just do it. So the filler is counted and cut in tokens, between lines
that are encoded as a whole. The key goes where a sentence of the filler ends, next to the depth
asked for; the last sentence before the question may be cut.

Two prompts of one length and case that differ in depth alone begin with the same tokens, up to the
key that comes first. That is what the prefix cache of the engine needs (``passkey_grid``).

Differs from the paper: keys have five digits always, where the paper draws from 1 to 50,000.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal, Protocol

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.tokenizer import Tokenizer

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
SENTENCES = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)
KEY_LINE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key?"
COMPLETION_QUESTION = "What is the pass key? The pass key is"

Style = Literal["chat", "completion"]
ANSWER_TOKENS: dict[Style, int] = {"chat": 32, "completion": 12}
"""Room for an answer: a sentence with the key, or the key."""

_MIN_FILLER = 32  # tokens; with less there is nothing to hide a key in


@dataclass(frozen=True, kw_only=True, slots=True)
class PasskeyPrompt:
    """One question."""

    token_ids: list[int]
    """The prompt."""
    key: str
    """The right answer, five digits."""
    key_position: int
    """Tokens before the line with the key: what prompts of other depths have in common with it."""
    filler_start: int
    """Where in the filler text it begins; 0 for repeated sentences."""


class Filler(Protocol):
    """Irrelevant text in tokens."""

    name: str
    """For reports."""

    def start(self, num_tokens: int, chance: random.Random) -> int:
        """Choose where to begin so that ``num_tokens`` follow."""

    def cut(self, start: int, num_tokens: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return ``num_tokens`` ids, and the offsets in them at which a sentence begins."""


class RepeatedSentences:
    """The five sentences of the paper, again and again.

    Args:
        tokenizer: The tokenizer of the model.
    """

    name = "repeated"

    def __init__(self, tokenizer: Tokenizer) -> None:
        # The first copy follows a line end; those after it follow a space.
        once, twice = (_after_newline(tokenizer, " ".join([SENTENCES] * n)) for n in (1, 2))
        self._first, self._next = once, twice[len(once) :]
        self._sentences = [_sentence_starts(tokenizer, ids) for ids in (self._first, self._next)]

    def start(self, num_tokens: int, chance: random.Random) -> int:
        """Always begin with the first sentence."""
        return 0

    def cut(self, start: int, num_tokens: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return ``num_tokens`` ids, and the offsets in them at which a sentence begins."""
        copies = max(0, -(-(num_tokens - len(self._first)) // len(self._next)))
        ids = list(chain(self._first, *repeat(self._next, copies)))[:num_tokens]
        firsts = [0, *(len(self._first) + i * len(self._next) for i in range(copies))]
        starts = [
            first + offset
            for copy, first in enumerate(firsts)
            for offset in self._sentences[min(copy, 1)]
            if first + offset < num_tokens
        ]
        return ids, starts


class TextFiller:
    """A real text, begun at another sentence for each case.

    Args:
        tokenizer: The tokenizer of the model.
        text: The text.
        name: Of its file.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, *, name: str) -> None:
        self.name = name
        self._ids = _after_newline(tokenizer, text)
        self._sentences = _sentence_starts(tokenizer, self._ids)

    def start(self, num_tokens: int, chance: random.Random) -> int:
        """Choose a sentence that is followed by enough text.

        Raises:
            ConfigError: The text is too short.
        """
        if len(self._ids) < num_tokens:
            raise ConfigError(
                f"{self.name} has {len(self._ids)} tokens, and {num_tokens} are to be filled; "
                "take a longer text or shorter lengths."
            )
        fitting = [s for s in self._sentences if s + num_tokens <= len(self._ids)]
        return chance.choice(fitting or [0])

    def cut(self, start: int, num_tokens: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return ``num_tokens`` ids, and the offsets in them at which a sentence begins."""
        end = start + num_tokens
        return self._ids[start:end], [s - start for s in self._sentences if start <= s < end]


class PromptWriter:
    """Writes prompts of exact lengths for one model.

    Args:
        tokenizer: The tokenizer of the model.
        filler: Where the irrelevant text comes from.
        style: ``completion`` for base models, ``chat`` for instruction models.
        seed: Same seed, same keys and texts.
    """

    def __init__(self, tokenizer: Tokenizer, filler: Filler, *, style: Style, seed: int) -> None:
        self._tokenizer = tokenizer
        self._filler = filler
        self._style = style
        self._seed = seed
        self.answer_tokens = ANSWER_TOKENS[style]
        """Tokens of each length that are kept for the answer."""

    @property
    def shortest(self) -> int:
        """Shortest length in tokens that leaves room for a filler."""
        return sum(map(len, self._lines("12345"))) + self.answer_tokens + _MIN_FILLER

    def write(self, length: int, depth: float, case: int) -> PasskeyPrompt:
        """Write one prompt.

        Args:
            length: Tokens of prompt and answer together.
            depth: How deep the key is hidden, 0 (first) to 100 (last) per cent of the filler.
            case: Number of the case; each has another key, and with a text another filler.

        Raises:
            ConfigError: The length leaves no room, or the filler has not enough text.
        """
        if length < self.shortest:
            raise ConfigError(
                f"length is {length}; question, key and answer leave no room for a filler below "
                f"{self.shortest} tokens. Take a longer one."
            )
        key = str(random.Random(f"{self._seed}:{length}:{depth}:{case}").randrange(10_000, 100_000))
        head, key_line, question = self._lines(key)
        room = length - self.answer_tokens - len(head) - len(key_line) - len(question)
        chance = random.Random(f"{self._seed}:{length}:{case}")
        start = self._filler.start(room, chance)
        text, sentences = self._filler.cut(start, room)
        newline = head[-1]
        # Each piece of filler that is not empty ends with the end of its line.
        num_before = _place(sentences, room=room, depth=depth)
        used = max(0, num_before - 1)
        before = [*text[:used], newline] if num_before else []
        num_after = room - num_before
        after = [*text[used : used + num_after - 1], newline] if num_after else []
        ids = [*head, *before, *key_line, *after, *question]
        assert len(ids) + self.answer_tokens == length, (len(ids), length)
        return PasskeyPrompt(
            token_ids=ids, key=key, key_position=len(head) + len(before), filler_start=start
        )

    def _lines(self, key: str) -> list[list[int]]:
        """Encode the prompt without a filler, and cut it into its three lines."""
        is_chat = self._style == "chat"
        lines = (TASK, KEY_LINE.format(key=key), QUESTION if is_chat else COMPLETION_QUESTION)
        text = "\n".join(lines)
        if is_chat:
            ids = self._tokenizer.encode_chat([{"role": "user", "content": text}])
        else:
            ids = self._tokenizer.encode(text)
        ends = [i + 1 for i, token in enumerate(ids) if _ends_line(self._tokenizer, token)]
        if len(ends) != 2:
            raise UnsupportedError(
                f"the tokenizer of this model writes {len(ends)} line ends into the prompt where 2 "
                "are expected; this version cannot place the filler."
            )
        return [ids[: ends[0]], ids[ends[0] : ends[1]], ids[ends[1] :]]


def _place(sentences: Sequence[int], *, room: int, depth: float) -> int:
    """Return how many of ``room`` tokens come before the key, the end of the line included.

    The key goes before the sentence that begins nearest to the depth.
    """
    if depth in (0, 100):
        return room if depth else 0
    wanted = room * depth / 100
    starts = [offset for offset in sentences if 0 < offset < room - 1]
    if not starts:
        return max(1, min(room - 1, round(wanted)))
    # The line end comes on top of the sentences before.
    return min(starts, key=lambda offset: abs(offset + 1 - wanted)) + 1


def _after_newline(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text that begins a line, without the line end before it."""
    ids = tokenizer.encode("x\n" + text, bos=False)
    end = next((i for i, token in enumerate(ids) if _ends_line(tokenizer, token)), None)
    if end is None:
        raise UnsupportedError("the tokenizer of this model has no token that ends a line.")
    return ids[end + 1 :]


def _ends_line(tokenizer: Tokenizer, token_id: int) -> bool:
    return tokenizer.token_bytes(token_id).endswith(b"\n")


def _sentence_starts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Return the offsets of tokens that follow the end of a sentence, and 0."""
    ends = {
        token: tokenizer.token_bytes(token).endswith((b".", b"!", b"?", b"\n"))
        for token in set(ids)
    }
    return [0, *(i + 1 for i, token in enumerate(ids[:-1]) if ends[token])]
