"""Lengths and depths as people type them: ``1k,2k,4k`` tokens, ``0,50,100`` per cent."""

import math
import re

from mixtral.errors import ConfigError

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(k?)", re.IGNORECASE)


def parse_lengths(name: str, text: str) -> tuple[int, ...]:
    """Read a list of numbers of tokens, where k stands for 1,024; ascending, each once.

    Raises:
        ConfigError: An entry is no such number, below 1, or no whole number of tokens.

    >>> parse_lengths("lengths", "2k,512,1k,0.5k")
    (512, 1024, 2048)
    """
    found = set()
    for entry in text.split(","):
        match = _LENGTH.fullmatch(entry.strip())
        # Long digit strings are numbers, too; none that a model could take has ten digits.
        number = float(match[1]) * (1024 if match[2] else 1) if match and len(entry) < 12 else 0.0
        if number < 1 or number != int(number):
            raise ConfigError(
                f"{name} is {text!r}; it must be numbers of tokens, k for 1024, with commas "
                "between them, such as 512,1k,2k."
            )
        found.add(int(number))
    return tuple(sorted(found))


def parse_depths(text: str) -> tuple[float, ...]:
    """Read where a key is hidden: a list in per cent, or how many places, evenly spread.

    Raises:
        ConfigError: It is neither, or a depth is outside 0 to 100.

    >>> parse_depths("0,25,100"), parse_depths("3"), parse_depths("1")
    ((0.0, 25.0, 100.0), (0.0, 50.0, 100.0), (50.0,))
    """
    try:
        numbers = [float(entry) for entry in text.split(",") if entry.strip()]
    except ValueError:
        numbers = []
    if "," in text and numbers and all(0 <= number <= 100 for number in numbers):
        return tuple(sorted(set(numbers)))
    if "," not in text and numbers and numbers[0] in range(1, 102):
        count = int(numbers[0])
        return tuple(100 * i / (count - 1) for i in range(count)) if count > 1 else (50.0,)
    raise ConfigError(
        f"depths is {text!r}; it must be per cent from 0 to 100 with commas between them, such as "
        "0,50,100, or one whole number from 1 to 101: so many depths, evenly spread."
    )


def doubling_lengths(longest: int, *, first: int = 512) -> tuple[int, ...]:
    """Return ``first``, twice that and so on, and the longest itself.

    >>> doubling_lengths(3000), doubling_lengths(100)
    ((512, 1024, 2048, 3000), (100,))
    """
    steps = int(math.log2(longest / first)) + 1 if longest >= first else 0
    return tuple(sorted({*(first * 2**i for i in range(steps)), longest}))


def check_lengths(name: str, lengths: tuple[int, ...], *, context: int) -> None:
    """Check that the model can take the longest.

    Raises:
        ConfigError: It cannot.
    """
    if lengths[-1] > context:
        raise ConfigError(
            f"{name} go up to {lengths[-1]} tokens, and the context of this model is {context}; "
            "leave out the longer ones."
        )
