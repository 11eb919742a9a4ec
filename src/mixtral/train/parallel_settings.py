"""The ``[parallel]`` table of a recipe: how the processes that torchrun starts share the work."""

from dataclasses import dataclass

from mixtral.errors import ConfigError
from mixtral.validation import require_int, require_positive_number


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelSettings:
    """How several processes train one model; a single process needs none of it.

    How many processes there are is torchrun's business. All of them are data-parallel: each runs
    its share of the micro-batches and keeps its share of the weights.

    Raises:
        ConfigError: A field is outside its allowed values.
    """

    expert_parallel: int = 1
    """Processes that split the experts of a layer between them; 1 keeps all in every process."""
    timeout_s: float = 600.0
    """Seconds that a process waits for the others before it gives up; above the longest step."""

    def __post_init__(self) -> None:
        """Check every field."""
        require_int("parallel.expert_parallel", self.expert_parallel, low=1)
        require_positive_number("parallel.timeout_s", self.timeout_s)

    def check(self, *, world_size: int, num_local_experts: int | None = None) -> None:
        """Check the settings against the processes that there are, and against the model.

        Args:
            world_size: Processes in all.
            num_local_experts: E; None where the model is not known yet.

        Raises:
            ConfigError: The experts cannot be split so.
        """
        ep = self.expert_parallel
        if world_size % ep:
            raise ConfigError(
                f"parallel.expert_parallel is {ep}; it must divide the number of processes, which "
                f"is {world_size}. Change it, or --nproc-per-node of torchrun."
            )
        if (
            num_local_experts is not None
            and ep > 1
            and (not num_local_experts or num_local_experts % ep)
        ):
            raise ConfigError(
                f"parallel.expert_parallel is {ep}; it must divide num_local_experts, which is "
                f"{num_local_experts} in this model. Change it in the recipe."
            )
