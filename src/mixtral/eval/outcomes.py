"""Which questions were answered right, one by one, so that two runs can be compared in pairs.

Two shares of the same questions vary together: what is hard for one model is hard for the other.
So a comparison needs the questions that only one of them got right, and two sums do not tell them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Questions of one task, in its order."""

    questions_sha256: str
    """Tells the questions from others; runs with the same one asked the same in the same order."""
    right: str
    """One digit per question: 1 where the answer was right."""

    @classmethod
    def of(cls, answered: Iterable[tuple[Any, bool]]) -> Self:
        """Return outcomes.

        Args:
            answered: What was asked, a JSON value, and whether the answer was right.

        >>> Outcomes.of([("1 + 1", True), ("2 + 2", False)]).right
        '10'
        """
        pairs = list(answered)
        asked = json.dumps([question for question, _ in pairs])
        return cls(
            questions_sha256=hashlib.sha256(asked.encode()).hexdigest(),
            right="".join("1" if is_right else "0" for _, is_right in pairs),
        )

    @classmethod
    def join(cls, parts: Mapping[str, "Outcomes"]) -> Self | None:
        """Return the outcomes of several tasks as one, by their names; None where there is none."""
        if not parts:
            return None
        asked = json.dumps({name: part.questions_sha256 for name, part in sorted(parts.items())})
        return cls(
            questions_sha256=hashlib.sha256(asked.encode()).hexdigest(),
            right="".join(part.right for _, part in sorted(parts.items())),
        )

    def as_dict(self) -> dict[str, str]:
        """Return it for a report."""
        return {"questions_sha256": self.questions_sha256, "right": self.right}
