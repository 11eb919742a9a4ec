"""Guesses the next tokens of a text from the text itself.

Answers often repeat parts of their prompt: quotations, code, names, JSON keys. Where the last few
tokens stood before, what followed them there is a cheap guess. The model then runs the guessed
tokens in one step and keeps those that it would have chosen itself, so the answer is the same and
only its speed changes (prompt lookup decoding; verification as in arXiv:2211.17192, section 2).

A mixture of experts pays for wrong guesses: each guessed token wakes experts of its own. So the
number of guesses follows their success.

Worked example, n-grams of 2: after ``7 8 9 1 7 8`` the pair ``7 8`` stood at the beginning, and
``9 1 7`` followed it.
"""

_NGRAM = 3
# Success below this share costs more than it gains, measured with 2 of 8 experts per token.
_WORTHWHILE = 0.6
_MEMORY = 0.8
# Tokens without a guess after guessing went wrong; then it is tried again.
_PAUSE = 32


class PromptLookup:
    """Index of the n-grams of one sequence.

    Args:
        token_ids: Prompt.
        num_tokens: Most tokens to guess.
    """

    def __init__(self, token_ids: list[int], num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._tokens: list[int] = []
        self._follower: dict[tuple[int, ...], int] = {}
        self._success = 1.0
        self._pause = 0
        for token_id in token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Take the next token of the text."""
        if len(self._tokens) >= _NGRAM:
            # Only now: the n-gram at the end of the text has no follower yet.
            self._follower[tuple(self._tokens[-_NGRAM:])] = len(self._tokens)
        self._tokens.append(token_id)
        self._pause = max(0, self._pause - 1)

    def guess(self, limit: int) -> list[int]:
        """Return at most ``limit`` tokens that may come next; none where nothing fits."""
        if self._pause or len(self._tokens) < _NGRAM:
            return []
        begin = self._follower.get(tuple(self._tokens[-_NGRAM:]))
        if begin is None:
            return []
        return self._tokens[begin : begin + min(limit, self._num_tokens)]

    def note(self, num_guessed: int, num_right: int) -> None:
        """Learn how many guesses of a step were right."""
        share = num_right / num_guessed
        self._success = _MEMORY * self._success + (1 - _MEMORY) * share
        if self._success < _WORTHWHILE:
            self._pause = _PAUSE
            self._success = _WORTHWHILE  # one good guess is enough to go on
