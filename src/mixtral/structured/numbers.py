"""The keywords of numbers, in values that decimal text and doubles agree on."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from mixtral.structured.node import Node, refuse, show

MAX_EXACT = 2**53
"""Whole numbers up to here are exact as doubles."""

EXCLUSIVE_DIGITS = 14
"""Digits of a fraction where a schema has an exclusive bound.

0.99999999999999999999 is below 1, but as a double it is 1. Two numbers of up to 15 digits are never
the same double, so one that the bound leaves out stays out.
"""

_LARGEST_BOUND = 9_223_372_036_854_774_784.0
_SMALLEST_STEP = 1e-15

_NUMERIC = frozenset(["number", "integer"])


def read_number(node: Node, key: str, value: Any, *, limit: float) -> int | float:
    """Return a number, whole ones as int.

    Raises:
        InvalidRequest: It is none, not finite, above ``limit``, or a fraction too small or large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(node, key, f"is {show(value)}; it must be a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            refuse(node, key, f"is {value}; it must be a finite number")
        if value == int(value):
            value = int(value)
        elif abs(value) < _SMALLEST_STEP or abs(value) >= 1e15:
            refuse(node, key, f"is {value}; fractions from 1e-15 to 1e15 can be held")
    if abs(value) > limit:
        refuse(node, key, f"is {value}; numbers up to {limit:.0f} can be held")
    number: int | float = value
    return number


def read_bound(node: Node, key: str, value: Any) -> None:
    """Read minimum, maximum, exclusiveMinimum or exclusiveMaximum."""
    if not node.is_for(*_NUMERIC):
        return
    is_lower = key.endswith("inimum")
    if isinstance(value, bool) and node.draft == 4 and key.startswith("exclusive"):
        plain = "minimum" if is_lower else "maximum"
        if not value or plain not in node.schema:
            return
        value = node.schema[plain]
    sign = 1 if is_lower else -1
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if is_finite and sign * value < -_LARGEST_BOUND:
        value = -sign * int(_LARGEST_BOUND)
    number = read_number(node, key, value, limit=_LARGEST_BOUND)
    if isinstance(number, int) and abs(number) > MAX_EXACT:
        number = _exact_inside(number, is_lower=is_lower)
    if key.startswith("exclusive") and "number" in node.types and not _is_short(number):
        key, number = key.removeprefix("exclusive").lower(), _just_inside(number, sign)
    previous = node.out.get(key)
    if isinstance(number, float):
        number = rounded(number, ROUND_CEILING if is_lower else ROUND_FLOOR)
    if previous is not None:
        number = max(previous, number) if is_lower else min(previous, number)
    node.out[key] = number


def rounded(number: float, rounding: str) -> float:
    """Return a number with so few digits that llguidance reads it as the same double.

    It reads digits and power of ten as two doubles, which is exact up to 2**53 and 10**22.
    """
    places = min(20, 14 - Decimal(repr(number)).adjusted())
    return float(Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), rounding=rounding))


def _is_short(number: float) -> bool:
    """Tell whether no other number of ``EXCLUSIVE_DIGITS`` digits is the same double."""
    return abs(number) < 1e13 and (
        isinstance(number, int) or float(f"{number:.{EXCLUSIVE_DIGITS - 1}g}") == number
    )


def _exact_inside(number: int, *, is_lower: bool) -> int:
    """Return the nearest double inside a bound."""
    nearest = float(number)
    if (nearest < number) if is_lower else (nearest > number):
        nearest = math.nextafter(nearest, math.inf if is_lower else -math.inf)
    return int(nearest)


def _just_inside(number: float, sign: int) -> float:
    """Return a double behind an exclusive bound, far enough to be written with few digits."""
    step = max(_SMALLEST_STEP, abs(number) * 2.0**-48)
    return number + sign * step


def read_multiple_of(node: Node, key: str, value: Any) -> None:
    """Read multipleOf."""
    if not node.is_for(*_NUMERIC):
        return
    number = read_number(node, key, value, limit=2**31)
    if number <= 0:
        refuse(node, key, f"is {show(value)}; it must be above 0")
    if isinstance(number, float) and number * 1024 != int(number * 1024):
        refuse(
            node,
            key,
            f"is {number}; validators divide in binary, where only fractions such as 0.5 are exact",
        )
    if number == 1 and node.types <= {"integer"}:
        return
    node.out[key] = number


def has_multiple(out: dict[str, Any]) -> bool:
    """Tell whether a multiple lies between the bounds."""
    step, low, high = out["multipleOf"], out.get("minimum"), out.get("maximum")
    if low is None or high is None:
        return True
    return bool(math.ceil(low / step) * step <= high)
