"""Checks of configuration fields that name the field, its value and what is allowed."""

from mixtral.errors import ConfigError


def require_int(name: str, value: object, *, low: int) -> None:
    """Check that a field is a whole number of at least ``low``.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {low}.")


def require_positive_number(name: str, value: object) -> None:
    """Check that a field is a finite number above 0.

    Raises:
        ConfigError: It is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < float("inf"):  # type: ignore[arg-type]
        raise ConfigError(f"{name} is {value!r}; it must be a number above 0.")
