"""Where in a JSON text we are: inside a string, how deep, how long the number is by now.

The grammar allows what JSON allows: a number of 5,000 digits, ``1e999``, a million brackets.
Readers do not: Python's ``json`` stops at 4,300 digits and about 1,000 levels, others read 1e999 as
an error. ``JsonTracker`` follows the text byte by byte, a microsecond per token, so that a
state can take digits and opening brackets out of the mask in time.
"""

MAX_DEPTH = 64
"""Levels of objects and arrays, after which no further one can be opened."""

MAX_DIGITS = 40
"""Digits of a number, after which it can only end; 17 tell any two doubles apart."""

MAX_EXPONENT_DIGITS = 2
"""Digits of an exponent: up to 40 digits and e99 stay far from the largest double, 1.8e308."""

_QUOTE, _BACKSLASH, _POINT = 0x22, 0x5C, 0x2E
_OPENERS, _CLOSERS = b"{[", b"}]"
_DIGITS = b"0123456789"


class JsonTracker:
    """A reader of JSON that keeps no text.

    Attributes:
        is_in_string: Whether the text so far ends inside a string.
        depth: Objects and arrays that are open.
    """

    __slots__ = (
        "_has_exponent",
        "_has_fraction",
        "_is_escaped",
        "_max_fraction_digits",
        "_num_digits",
        "depth",
        "is_in_string",
    )

    def __init__(self, *, max_fraction_digits: int = MAX_DIGITS) -> None:
        """Start with an empty text.

        Args:
            max_fraction_digits: Digits of a number with a fraction, those before it counted too.
        """
        self._max_fraction_digits = max_fraction_digits
        self._has_fraction = False
        self.is_in_string = False
        self.depth = 0
        self._is_escaped = False
        self._num_digits = 0
        self._has_exponent = False

    def copy(self) -> "JsonTracker":
        """Return an independent tracker at the same place."""
        other = JsonTracker(max_fraction_digits=self._max_fraction_digits)
        other._has_fraction = self._has_fraction
        other.is_in_string = self.is_in_string
        other.depth = self.depth
        other._is_escaped = self._is_escaped
        other._num_digits = self._num_digits
        other._has_exponent = self._has_exponent
        return other

    @property
    def has_enough_digits(self) -> bool:
        """Whether a number is open that must not get more digits."""
        if self._has_exponent:
            return self._num_digits >= MAX_EXPONENT_DIGITS
        limit = self._max_fraction_digits if self._has_fraction else MAX_DIGITS
        return self._num_digits >= limit

    @property
    def is_deep(self) -> bool:
        """Whether nothing more must be opened."""
        return self.depth >= MAX_DEPTH

    def push(self, text: bytes) -> None:
        """Read on."""
        for byte in text:
            if self.is_in_string:
                self._push_in_string(byte)
            elif byte in _DIGITS:
                self._num_digits += 1
            elif byte in b"eE" and self._num_digits:
                self._num_digits, self._has_exponent = 0, True
            elif byte == _POINT:
                self._has_fraction = True
            elif byte not in b"+-":
                self._num_digits, self._has_exponent, self._has_fraction = 0, False, False
                self.is_in_string = byte == _QUOTE
                self.depth += (byte in _OPENERS) - (byte in _CLOSERS)

    def _push_in_string(self, byte: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif byte == _BACKSLASH:
            self._is_escaped = True
        elif byte == _QUOTE:
            self.is_in_string = False
