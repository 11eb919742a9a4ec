"""Several processes of one training run: ``ParallelContext`` with what it promises.

What the methods mean is said in ``parallel.py``; here is how PyTorch does it: FSDP2
(``fully_shard``) over a line of all processes, and for split experts over the columns of a square,
whose rows are the groups that exchange tokens. With W = 8 and expert_parallel = 4:

    row 0     0 1 2 3     processes that split the experts of a layer
    row 1     4 5 6 7     the same experts again
    columns   0 4, 1 5, 2 6, 3 7: two processes share the weights of the same experts
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mixtral.errors import ConfigError, EngineError
from mixtral.model import Transformer
from mixtral.model.transformer import DecoderLayer
from mixtral.train.expert_parallel import ExpertParallelMoe
from mixtral.train.parallel import ParallelContext
from mixtral.train.parallel_settings import ParallelSettings


def join(
    settings: ParallelSettings, device_type: str, *, rank: int, world_size: int, local_rank: int
) -> "DistributedContext":
    """Join the other processes; see ``ParallelContext.from_environment``.

    Args:
        settings: How to share the work.
        device_type: ``cpu`` or ``cuda``.
        rank: Number of this process among all.
        world_size: W.
        local_rank: Number of this process on its machine, and of its device.

    Raises:
        ConfigError: There are more processes than devices, or the others cannot be reached.
    """
    device = _own_device(device_type, local_rank)
    timeout = timedelta(seconds=settings.timeout_s)
    try:
        # Both backends on CUDA: numbers and checkpoints go over the CPU.
        backend = "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=timeout)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"this process cannot join the {world_size - 1} others: {_first_line(error)}. "
            "Start all of them with torchrun and the same --rdzv-endpoint."
        ) from error
    data_mesh, expert_mesh = _make_meshes(device_type, settings.expert_parallel, timeout)
    return DistributedContext(
        device, rank=rank, world_size=world_size, data_mesh=data_mesh, expert_mesh=expert_mesh
    )


class DistributedContext(ParallelContext):
    """This process among several.

    Args:
        device: Where this process computes.
        rank: Number of this process, from 0.
        world_size: W, processes in all.
        data_mesh: All processes in a line.
        expert_mesh: The same as [W / ep, ep], named ``shard`` and ``expert``; None without
            expert parallelism.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        rank: int,
        world_size: int,
        data_mesh: DeviceMesh,
        expert_mesh: DeviceMesh | None,
    ) -> None:
        super().__init__(device, rank=rank, world_size=world_size)
        self._data_mesh = data_mesh
        self._expert_mesh = expert_mesh
        self._is_trained: dict[str, bool] = {}  # by name, in the order of the whole model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the others; a failure of theirs becomes one line."""
        # After a failure the others may be gone, and leaving in order would wait for them.
        if error is None:
            dist.destroy_process_group()
        elif isinstance(error, RuntimeError) and _is_of_network(error):
            raise EngineError(
                f"process {self.rank} lost the others: {_first_line(error)}. One of them ended or "
                "is stuck, and its own message says why; the same command resumes the run."
            ) from error

    def require_same(self, text: str, what: str) -> None:
        """Check that every process was given the same."""
        digests: list[bytes] = [b""] * self.world_size
        dist.all_gather_object(digests, hashlib.sha256(text.encode()).digest())
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise ConfigError(
                f"{what} of process {others[0]} is not that of process 0; "
                "all processes must be started with the same files and options."
            )

    def shard(self, model: Transformer, dtype: torch.dtype) -> None:
        """Split the weights of a model over the processes, in place."""
        self._is_trained = {name: p.requires_grad for name, p in model.named_parameters()}
        policy = _policy(dtype)
        for module in model.model.layers:
            layer = cast(DecoderLayer, module)
            if self._expert_mesh is not None:
                self._split_experts(layer, dtype)
            _widen(layer, dtype)
            fully_shard(layer, mesh=self._data_mesh, mp_policy=policy)
        embedding = model.model.embed_tokens
        if not embedding.weight.requires_grad:
            embedding.register_forward_hook(_with_gradient)
        _widen(model, dtype)
        fully_shard(model, mesh=self._data_mesh, mp_policy=policy)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # A sum, because the parts are weighted already; gloo knows no scaled one.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        # An expert may be idle in one process and busy in another.
        cast(FSDPModule, model).set_reduce_scatter_unused_params(True)

    def _split_experts(self, layer: DecoderLayer, dtype: torch.dtype) -> None:
        assert self._expert_mesh is not None
        moe = layer.block_sparse_moe
        group = self._expert_mesh.get_group("expert")
        ParallelSettings(expert_parallel=group.size()).check(
            world_size=self.world_size,
            num_local_experts=len(moe.experts) if moe.num_experts_per_tok else 0,
        )
        split = ExpertParallelMoe(moe, group)
        layer.block_sparse_moe = split
        _widen(split.experts, dtype)
        fully_shard(split.experts, mesh=self._expert_mesh["shard"], mp_policy=_policy(dtype))

    def reshard(self, model: Transformer) -> None:
        """Let go of weights that a pass without gradients has left gathered."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, and return it."""
        dist.all_reduce(tensor)
        return tensor

    def whole_tensors(
        self, model: Transformer, *, trained_only: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Gather the weights, one after the other, in the model's own order."""
        self.reshard(model)
        own = dict(model.named_parameters())
        for name, is_trained in self._is_trained.items():
            if is_trained or not trained_only:
                yield name, self._whole_tensor(own.get(name))

    def _whole_tensor(self, shard: Tensor | None) -> Tensor:
        whole = None
        if shard is not None:
            whole = shard.full_tensor() if isinstance(shard, DTensor) else shard.detach()
        if self._expert_mesh is None:
            assert whole is not None
            return whole
        # Which process has it, and what it looks like, is known to the owners alone.
        shapes: list[tuple[torch.Size, torch.dtype] | None] = [None] * self.world_size
        dist.all_gather_object(shapes, None if whole is None else (whole.shape, whole.dtype))
        owner, found = next((i, shape) for i, shape in enumerate(shapes) if shape is not None)
        if None not in shapes:
            assert whole is not None
            return whole
        if whole is None:
            whole = torch.empty(found[0], dtype=found[1], device=self.device)
        dist.broadcast(whole, owner)
        return whole

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        dist.barrier()


def _policy(dtype: torch.dtype) -> MixedPrecisionPolicy:
    # Inputs keep their dtype: the rotary tables must stay float32.
    return MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )


def _widen(module: nn.Module, dtype: torch.dtype) -> None:
    """Turn trainable parameters that are not split yet into float32, in place.

    Weights of the base are rounded to ``dtype`` first, as they are where one process trains them:
    a memory map has them as they are stored. Frozen ones FSDP converts as it gathers them.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            is_adapter = name.endswith((".lora_a", ".lora_b"))
            values = parameter.data if is_adapter else parameter.data.to(dtype)
            parameter.data = values.float()


def _with_gradient(module: nn.Module, args: Any, states: Tensor) -> Tensor:
    """Let the graph begin at the embedding, whatever is trained after it.

    Otherwise it would begin at the first adapter that a token meets. Which one that is depends on
    the tokens of the process, and so would the collective operations of its backward pass.
    """
    return states.requires_grad_() if torch.is_grad_enabled() else states


def _own_device(device_type: str, local_rank: int) -> torch.device:
    if device_type != "cuda":
        return torch.device(device_type)
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU of its own; there are "
            f"{torch.cuda.device_count()}. Lower --nproc-per-node of torchrun."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _make_meshes(
    device_type: str, expert_parallel: int, timeout: timedelta
) -> tuple[DeviceMesh, DeviceMesh | None]:
    """Return all processes in a line, and as [shard, expert]; neighbours split the experts."""
    ranks = torch.arange(dist.get_world_size())
    everybody = dist.group.WORLD
    assert everybody is not None
    line = DeviceMesh.from_group(everybody, device_type, mesh_dim_names=("data",))
    if expert_parallel == 1:
        return line, None
    square = ranks.view(-1, expert_parallel)
    # Groups of our own, because those of a mesh would wait half an hour for a lost process.
    groups = [
        dist.new_subgroups_by_enumeration(lines.tolist(), timeout=timeout)[0]
        for lines in (square.T, square)
    ]
    mesh = DeviceMesh.from_group(
        groups, device_type, mesh=square, mesh_dim_names=("shard", "expert")
    )
    return line, mesh


def _is_of_network(error: RuntimeError) -> bool:
    """Whether a collective operation failed; gloo's own errors are plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _first_line(error: BaseException) -> str:
    """Return the first sentence of a message, without the place in gloo's source before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[[^]]*\]\s*", "", lines[0]).split(". ")[0].rstrip(".")
