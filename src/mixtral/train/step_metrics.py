"""What one optimizer step tells: of the trainer to whoever shows or writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """Numbers of one optimizer step."""

    step: int
    """Index of the step, from 0."""
    loss: float
    """Loss of the stage: nats per token, or per preference pair."""
    load_balancing_loss: float
    """1 when all experts get the same load."""
    z_loss: float
    """Mean squared log-partition of the routers."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Rate of this step."""
    seconds: float
    """Time of this step, without measurements on held-out data."""
    num_tokens: int
    """Tokens that ran, over all processes."""
    tokens_per_s: float
    """Training tokens per second of this step."""
    flops_use: float
    """Share of the machine's matrix arithmetic that the step's mathematics needed, 0 to 1."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further means of the stage."""
    valid: Mapping[str, float] | None = None
    """Means over the held-out data, where this step measured them."""

    @property
    def valid_loss(self) -> float | None:
        """Held-out loss, where this step measured it."""
        return None if self.valid is None else self.valid.get("loss")
