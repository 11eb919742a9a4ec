"""The benchmark table that the guides print: six models, twelve benchmarks, active parameters.

It is reference beside our own measurements, not a contest: the prompts behind it were never
published, so a point or two of difference means nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceModel:
    """One row of the table."""

    name: str
    """Name of the model."""
    active_parameters: int
    """Parameters at work for one token, as rounded in the table."""
    percent: Mapping[str, float]
    """Right answers by name of the benchmark."""


def read_guide_table() -> list[ReferenceModel]:
    """Return the rows of ``guide_table.tsv``, which names its sources."""
    text = files("mixtral.eval").joinpath("guide_table.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    (_, _, *benchmarks), *rows = lines
    return [
        ReferenceModel(
            name=name,
            active_parameters=round(float(active) * 1e9),
            percent=dict(zip(benchmarks, map(float, values), strict=True)),
        )
        for name, active, *values in rows
    ]
