"""How an answer says that calls follow: a control token in v3, a text in v1.

The v3 template has the control token ``[TOOL_CALLS]``, which no text can spell. v1 has none, so
the same letters stand for it as ordinary text: the prompt asks for them, the history of a
conversation shows them, and the grammar of the calls begins after them.
"""

from mixtral.tokenizer import Tokenizer

CALLS_MARKER = "[TOOL_CALLS]"
"""What comes before the list of calls."""
RESULTS_MARKER = "[TOOL_RESULTS]"
"""What comes before the list of results in a v1 conversation."""
CALLS_TOKEN_ID = 5
"""The id of the control token ``[TOOL_CALLS]`` in v3."""


class MarkerMatcher:
    """Finds ``CALLS_MARKER`` in text that comes character by character.

    Attributes:
        matched: Length of the end of the text so far that begins the marker; all of it when the
            marker is complete.
    """

    def __init__(self) -> None:
        self.matched = 0

    def step(self, character: str) -> bool:
        """Take one character and tell whether the marker is complete with it."""
        if self.matched == len(CALLS_MARKER) or character != CALLS_MARKER[self.matched]:
            # The first character of the marker is nowhere else in it: nothing else can overlap.
            self.matched = 0
        self.matched += character == CALLS_MARKER[self.matched]
        return self.matched == len(CALLS_MARKER)


def marker_token_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of the marker as a model of this tokenizer would write it."""
    if tokenizer.version == "v3":
        return [CALLS_TOKEN_ID]
    return tokenizer.encode(CALLS_MARKER, bos=False)


def tokens_of_rest(tokenizer: Tokenizer, num_matched: int) -> list[int]:
    """Return tokens that finish a v1 marker of which ``num_matched`` letters are there.

    >>> from mixtral.tokenizer import load_tokenizer
    >>> tokenizer = load_tokenizer("v1")
    >>> [tokenizer.decode_token(i) for i in tokens_of_rest(tokenizer, len("[TOOL_"))]
    ['CALL', 'S', ']']
    """
    # A line feed is a byte token of its own, so what follows it merges with nothing before it.
    return tokenizer.encode("\n" + CALLS_MARKER[num_matched:], bos=False)[2:]
