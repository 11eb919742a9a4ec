"""One training run on several processes: FSDP2 and expert parallelism, by PyTorch's own engine.

``torchrun --nproc-per-node 8 -m mixtral.cli train sft recipe.toml`` starts W equal processes. Every
one of them reads the same recipe and plans the same steps; then

* data: of the micro-batches of a step each process runs its share (``share``). How many tokens the
  whole step counts, and so the weight of a micro-batch, everybody knows without asking;
* weights: a process keeps 1 / W of every matrix in float32, with its gradient and its AdamW
  moments (``shard``; FSDP2, ZeRO stage 3, arXiv:1910.02054, section 5). A layer's matrices are
  gathered in ``dtype`` just before they are needed and let go afterwards. Gradients are summed,
  not averaged, over processes, in float32: with the weights above the sum is that of one process;
* experts: with ``expert_parallel`` = ep, groups of ep neighbours split the experts of each layer
  (``expert_parallel.py``), and W / ep processes share each expert's weights.

So a step of W processes is the step of one process over the same micro-batches: same losses, same
gradient norm, same clipping, within float32 rounding. That holds for the load-balancing loss too,
because its expert shares f_e are those of one micro-batch wherever that micro-batch runs; nothing
is exchanged for it.

What the training loop does with it, in order::

    with ParallelContext.from_environment(settings) as context:
        context.require_same(identity, "the recipe")
        context.shard(model, dtype)                       # before the optimizer is made
        micros = objective.step(step)                     # all of them, in every process
        total = sum(micro.size for micro in micros)
        for index, scale in context.share(len(micros)):   # those of this process
            (scale * micros[index].size / total * loss(micros[index])).backward()
        norm = context.clip_gradients(parameters, grad_clip)
        losses = context.sum_values({"loss": ...})        # weighted parts -> means of the step
        for name, tensor in context.whole_tensors(model): # export: all iterate, is_main writes

One process pays for none of it: ``ParallelContext`` itself is the case of one, with no process
group, no wrapper and no import; ``distributed.py`` overrides it. The optimizer works on the local
shards, which are ordinary float32 tensors (``shards.py``), so it needs no copies of its own;
saving and loading them is in ``sharded_state.py``.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.model import Transformer
from mixtral.train.parallel_settings import ParallelSettings
from mixtral.train.shards import local_shard


class ParallelContext:
    """This process among the others of the run; as it stands here, the only one.

    Attributes:
        rank: Number of this process, from 0.
        world_size: W, processes in all.
        device: Where this process computes.
    """

    def __init__(self, device: torch.device, *, rank: int = 0, world_size: int = 1) -> None:
        self.device = device
        self.rank = rank
        self.world_size = world_size

    @staticmethod
    def from_environment(settings: ParallelSettings, device_type: str = "cpu") -> "ParallelContext":
        """Join the processes that torchrun started; alone, do nothing.

        Args:
            settings: How to share the work.
            device_type: ``cpu`` (gloo) or ``cuda`` (NCCL; one device per process).

        Raises:
            ConfigError: The experts cannot be split over so many processes, there are more
                processes than devices, or the other processes cannot be reached.
        """
        world_size, rank, local_rank = (
            _environment_int(name, default)
            for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
        )
        settings.check(world_size=world_size)
        if world_size == 1:
            return ParallelContext(torch.device(device_type))
        # Imported late: FSDP takes a second to import, which one process need not wait for.
        from mixtral.train.distributed import join

        return join(settings, device_type, rank=rank, world_size=world_size, local_rank=local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the log, the plots and the model."""
        return self.rank == 0

    def __enter__(self) -> Self:
        """Return this context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the others; a failure of theirs becomes one line.

        Raises:
            EngineError: A collective operation failed, because another process has ended or is
                stuck.
        """

    def require_same(self, text: str, what: str) -> None:
        """Check that every process was given the same.

        Args:
            text: Compared by its SHA-256.
            what: What it is, for the message: ``the recipe``.

        Raises:
            ConfigError: Another process has a different one; all processes raise it.
        """

    def require_enough(self, num_micros: int) -> None:
        """Check that a step keeps every process busy; a short one at the end of the data need not.

        Args:
            num_micros: Micro-batches of the first step.

        Raises:
            ConfigError: There are fewer micro-batches than processes.
        """
        if num_micros < self.world_size:
            raise ConfigError(
                f"a step has {num_micros} micro-batches for {self.world_size} processes; there "
                "must be at least one for each. Lower micro_batch_tokens, or raise tokens_per_step."
            )

    def share(self, num_micros: int) -> list[tuple[int, float]]:
        """Return which micro-batches of a step this process runs.

        Every process gets equally many, because every pass is a collective operation: where they
        do not divide, some run the last micro-batch once more, scaled by 0.

        Args:
            num_micros: Micro-batches of the step, all processes together.

        Returns:
            Their numbers, from 0, each with 1, or 0 where it is only run to keep step with the
            others.
        """
        padded = [(index, 1.0) for index in range(num_micros)]
        padded += [(num_micros - 1, 0.0)] * (-num_micros % self.world_size)
        return padded[self.rank :: self.world_size]

    def shard(self, model: Transformer, dtype: torch.dtype) -> None:
        """Split the weights of a model over the processes, in place.

        Trainable parameters become float32 shards; frozen ones keep their dtype, and packed ones
        stay whole in every process. One layer at a time, so that a memory-mapped checkpoint is
        never whole in memory. Every process must begin with the same weights.

        Args:
            model: A model with ``requires_grad`` set as it will be trained; its weights may be
                stored in any float dtype.
            dtype: In which the gathered weights compute: bfloat16 or float32.

        Raises:
            ConfigError: The experts of the model cannot be split so.
        """

    def reshard(self, model: Transformer) -> None:
        """Let go of weights that a pass without gradients has left gathered.

        Args:
            model: As it was given to ``shard``; its parameters are shards again, as an optimizer
                that is made next has to find them.
        """

    def clip_gradients(self, parameters: Iterable[Tensor], max_norm: float) -> float:
        """Scale the gradients of all processes so that their norm is at most ``max_norm``.

        Args:
            parameters: Those of this process that are trained; ones without a gradient count 0.
            max_norm: Largest norm.

        Returns:
            Norm of the whole gradient before clipping, the same in every process.
        """
        grads = [local_shard(p.grad) for p in parameters if p.grad is not None]
        square = torch.zeros((), device=grads[0].device if grads else self.device)
        if grads:
            square += torch.stack(torch._foreach_norm(grads)).float().square().sum()
        # Every element of the gradient is in exactly one process: also those of split experts.
        norm = self.sum_tensor(square).sqrt()
        if grads:
            torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, and return it."""
        return tensor

    def sum_values(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add up numbers over all processes; the names must be the same in each."""
        names = sorted(values)
        numbers = [values[name] for name in names]
        # float64 does not exist on every device, and gloo serves the CPU beside NCCL.
        total = self.sum_tensor(torch.tensor(numbers, dtype=torch.float64))
        return dict(zip(names, total.tolist(), strict=True))

    def any_true(self, value: bool) -> bool:
        """Return whether it is true in any process; all must ask."""
        return value if self.world_size == 1 else self.sum_values({"": float(value)})[""] > 0

    def whole_tensors(
        self, model: Transformer, *, trained_only: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Gather the weights, one after the other, in the model's own order.

        A collective operation: every process must iterate to the end, also those that do not
        write.

        Args:
            model: As it was given to ``shard``.
            trained_only: Leave frozen weights out.

        Yields:
            Name and whole tensor, float32 where it is trained and split; the same in every process.
        """
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or not trained_only:
                yield name, parameter.detach()

    def wait_for_all(self) -> None:
        """Return when every process has come here."""


def _environment_int(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or int(text) < default:
        raise ConfigError(
            f"the variable {name} is {text!r}; torchrun sets it to a whole number of at least "
            f"{default}. Start with torchrun, or unset it."
        )
    return int(text)
