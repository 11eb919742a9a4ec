r"""Text as it comes: finished characters only, and nothing of a stop string.

A character outside the vocabulary arrives as up to four byte tokens. ``StreamDecoder`` holds those
bytes back until the character is whole, or until they can no longer become one, so a reader never
sees half a character that would change later. Nothing else needs to wait: the text of every other
token is final as soon as the token is there. Example, v3, for " \u20ac" in three bytes:

    push(29473) -> " "    push(997) -> ""    push(901) -> ""    push(943) -> "\u20ac"

``StopChecker`` holds back the longest end of the text that may be the beginning of a stop string.
It follows every stop string with the automaton of Knuth, Morris and Pratt (1977), so its work per
character does not depend on how long the stop strings are.

Sampling, token limits and end-of-sequence ids belong to the engine.
"""

from collections.abc import Sequence
from functools import lru_cache

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns ids into text one by one; the pieces together are the text of the whole list.

    Without ``prompt_ids`` the ids are a text of their own, such as an answer after ``[/INST]``:
    everything ``push`` and ``flush`` return, joined, equals ``tokenizer.decode(ids)``, for any ids.
    With ``prompt_ids`` they continue that prompt: the leading space stays, and a character whose
    first bytes end the prompt is finished here.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = ()) -> None:
        """Start a text, or the continuation of a prompt."""
        self._tokenizer = tokenizer
        self._is_continuation = any(tokenizer.token_bytes(i) for i in prompt_ids)
        self._pending: list[int] = []
        tail: list[int] = []
        for token_id in reversed(prompt_ids[-3:]):
            if not tokenizer.is_byte(token_id):
                break
            tail.insert(0, token_id)
        self._pending = tail[len(tail) - self._num_unfinished(tail) :]

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that is certain now, often all of the token's."""
        self._pending.append(token_id)
        if not self._tokenizer.is_byte(token_id):
            return self.flush()
        num_finished = len(self._pending) - self._num_unfinished(self._pending)
        finished, self._pending = self._pending[:num_finished], self._pending[num_finished:]
        return self._decode(finished)

    def flush(self) -> str:
        """Return what was held back; bytes that never became a character read U+FFFD."""
        finished, self._pending = self._pending, []
        return self._decode(finished)

    def _decode(self, token_ids: list[int]) -> str:
        if not token_ids:
            return ""
        if self._is_continuation:
            return self._tokenizer.decode_continuation(token_ids)
        self._is_continuation = any(self._tokenizer.token_bytes(i) for i in token_ids)
        return self._tokenizer.decode(token_ids)

    def _num_unfinished(self, byte_ids: list[int]) -> int:
        """Count the byte tokens at the end that more bytes could complete to a character."""
        for count in range(1, min(3, len(byte_ids)) + 1):
            tail = b"".join(self._tokenizer.token_bytes(i) for i in byte_ids[-count:])
            try:
                tail.decode("utf-8")
            except UnicodeDecodeError as error:
                if error.start == 0 and error.reason == "unexpected end of data":
                    return count
        return 0


class StopChecker:
    """Passes text on until one of the stop strings is complete, and cuts the text before it.

    The stop string that is complete first wins; of two that end at the same character, the longer.
    So the result does not depend on how the text is cut into pushes.

    Attributes:
        stopped: The stop string that was met, or None while there was none.
    """

    def __init__(self, stop: Sequence[str] | str) -> None:
        """Prepare to look for every string in ``stop``.

        Raises:
            InvalidRequest: A stop string is empty or is not a string.
        """
        stops = [stop] if isinstance(stop, str) else list(stop)
        for text in stops:
            if not isinstance(text, str) or not text:
                raise InvalidRequest(
                    f"stop has {text!r}; each stop string must be a non-empty string"
                )
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._borders = [_borders(text) for text in self._stops]
        self._matched = [0] * len(self._stops)
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> str:
        """Take more text and return what is safe to show; nothing more after a stop."""
        if self.stopped is not None:
            return ""
        if not self._stops:
            return text
        start = len(self._held)
        self._held += text
        for end, character in enumerate(text, start=start + 1):
            stop = self._step(character)
            if stop is not None:
                self.stopped = stop
                safe, self._held = self._held[: end - len(stop)], ""
                return safe
        num_safe = len(self._held) - max(self._matched)
        safe, self._held = self._held[:num_safe], self._held[num_safe:]
        return safe

    def flush(self) -> str:
        """Return what was held back, at the end of a text that met no stop string."""
        self._matched = [0] * len(self._stops)
        safe, self._held = self._held, ""
        return safe

    def _step(self, character: str) -> str | None:
        """Move every automaton one character on; return the longest stop string that ends here."""
        complete: str | None = None
        for index, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                complete = complete or stop
                matched = borders[matched - 1]
            self._matched[index] = matched
        return complete


@lru_cache(maxsize=256)  # of all answers to a request, and of clients that ask again
def _borders(text: str) -> list[int]:
    """Return for each prefix the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for i in range(1, len(text)):
        while length and text[i] != text[length]:
            length = borders[length - 1]
        if text[i] == text[length]:
            length += 1
        borders[i] = length
    return borders
