"""How the learning rate changes over a run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A linear rise, a plateau, a cosine fall.

    With ``decay_fraction`` 1 there is no plateau: the cosine schedule (arXiv:1608.03983, without
    restarts). With less it is warm-up, stable, decay (arXiv:2404.06395, section 4.3), whose plateau
    does not depend on the length of the run.

    >>> wsd = Schedule(
    ...     max_steps=100, peak=1.0, last=0.0, warmup_steps=10, decay_fraction=0.5
    ... )
    >>> [round(wsd.rate(step), 2) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 1.0, 0.0]
    """

    max_steps: int
    """Optimizer steps of the whole run."""
    peak: float
    """Highest rate."""
    last: float
    """Rate of the last step."""
    warmup_steps: int
    """Steps of the rise."""
    decay_fraction: float
    """Share of the steps after the rise over which the rate falls."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        decay_steps = max(1, int(self.decay_fraction * (self.max_steps - self.warmup_steps)))
        progress = (step - (self.max_steps - decay_steps) + 1) / decay_steps
        if progress <= 0:
            return self.peak
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.last + (self.peak - self.last) * share
