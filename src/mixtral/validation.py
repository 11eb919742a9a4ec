"""Checks of configuration fields that name the field, its value and what is allowed."""

import sys

from mixtral.errors import ConfigError


def require_int(name: str, value: object, *, low: int, high: int | None = None) -> None:
    """Check that a field is a whole number of at least ``low`` and at most ``high``.

    Raises:
        ConfigError: It is not.
    """
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < low or (high is not None and value > high):  # type: ignore[operator]
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value!r}; it must be a whole number {allowed}.")


def require_positive_number(name: str, value: object) -> None:
    """Check that a field is a finite number above 0.

    Raises:
        ConfigError: It is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared as it is: a whole number may be too large to become a float.
    if not is_number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}; it must be a finite number above 0.")
