"""Measurements one after the other, of which none that is whole is lost when a later one is not."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from mixtral.errors import Error

Measurement = TypeVar("Measurement")
"""What a benchmark makes several of: a result, or a repeat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected(Generic[Measurement]):
    """What was measured, and why there is no more."""

    found: list[Measurement]
    """At least one."""
    is_cut: bool = False
    """Whether Ctrl-C came in the next one."""
    failure: str | None = None
    """Why the next one failed."""


def collect(measurements: Iterable[Measurement]) -> Collected[Measurement]:
    """Take measurements up to the end, to Ctrl-C or to a failure.

    Raises:
        KeyboardInterrupt: At Ctrl-C, before the first was whole.
        Error: The first failed; so may OSError and the errors of a full memory.
    """
    found: list[Measurement] = []
    try:
        for measurement in measurements:
            found.append(measurement)
    except KeyboardInterrupt:
        if found:
            return Collected(found=found, is_cut=True)
        raise
    except (Error, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if found:
            return Collected(found=found, failure=str(error) or type(error).__name__)
        raise
    return Collected(found=found)
