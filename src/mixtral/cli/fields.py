"""Reads the strings under the fields of a dataclass, so that help texts cannot drift from them.

Python does not keep these strings at run time, and importing the modules that hold the classes
would import torch; so the source is parsed instead.
"""

import ast
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDoc:
    """One field of a dataclass as its source shows it."""

    doc: str
    """The string under it, on one line."""
    default: str | None
    """Its default as written; None where there is none."""

    @property
    def value(self) -> Any:
        """The default, where it is a literal."""
        return None if self.default is None else ast.literal_eval(self.default)


def read_fields(source: str, class_name: str) -> dict[str, FieldDoc]:
    """Return the fields of a class with the strings under them, in order.

    Args:
        source: File, relative to the package.
        class_name: A dataclass in that file.

    >>> read_fields("engine/sampling_params.py", "SamplingParams")["seed"].doc
    'Same seed, same tokens; left out, a fresh seed is drawn.'
    """
    tree = ast.parse((_PACKAGE / source).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    fields = {}
    for node, below in pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        doc = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            doc = " ".join(str(below.value.value).split())
        default = None if node.value is None else ast.unparse(node.value)
        fields[node.target.id] = FieldDoc(doc=doc, default=default)
    return fields
