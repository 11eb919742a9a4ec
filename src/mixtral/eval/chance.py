"""When a share of right answers says nothing: its interval holds what guessing gets.

Where there is nothing to choose from, guessing gets nothing right; then only a share of nothing is
at chance, and the words for it are plainer.
"""

from typing import Literal

Verdict = Literal["at chance", "none right", ""]


def chance_verdict(interval: tuple[float, float] | None, guess: float | None) -> Verdict:
    """Say whether a share could be that of guessing.

    Args:
        interval: 95 % interval of the share; None where nothing was asked.
        guess: Share that guessing gets; None where there is nothing to choose from.

    >>> chance_verdict((0.2, 0.3), 0.25), chance_verdict((0.0, 0.1), None)
    ('at chance', 'none right')
    >>> chance_verdict((0.3, 0.4), 0.25), chance_verdict(None, 0.5)
    ('', '')
    """
    if interval is None or not interval[0] <= (guess or 0.0) <= interval[1]:
        return ""
    return "none right" if guess is None else "at chance"
