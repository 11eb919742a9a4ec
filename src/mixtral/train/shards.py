"""Tensors that are split over processes, and the part of them that is here.

A split parameter is a ``DTensor``: it knows the whole shape and holds its part as an ordinary
tensor, in the same memory. Optimizers work on the parts; checkpoints are written from the wholes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor

from mixtral.model.adapter import Adapter


def local_shard(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is in this process, sharing its memory."""
    # Asked so, because to import DTensor takes a second that one process need not spend.
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def local_rows(values: Tensor, like: Tensor) -> Tensor:
    """Return of a value for each row of a whole tensor those whose rows are in this process.

    Args:
        values: [rows of the whole], the same in every process.
        like: A tensor, split by rows or not at all.
    """
    if not hasattr(like, "to_local"):
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # Without a source every process cuts its own copy, and nothing is sent.
    parts = distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)
    return parts.to_local()


def as_shard(local: Tensor, like: Tensor) -> Tensor:
    """Return a local tensor as the same part of a whole as ``local_shard(like)`` is.

    Args:
        local: As large as the local part of ``like``.
        like: A parameter.
    """
    if not hasattr(like, "to_local"):
        return local
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        local,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def whole_adapter(tensors: Mapping[str, Tensor], like: Adapter) -> Adapter:
    """Put the adapter of a split model together.

    ``lora_adapter`` cannot: of a split model it sees shards, and not the experts elsewhere.

    Args:
        tensors: Whole tensors by parameter name, from ``ParallelContext.whole_tensors``; of what
            does not learn none is needed.
        like: ``lora_adapter`` of the model before it was split, for names, scales, and matrices
            that do not learn.
    """
    found = {}
    for name, matrices in like.matrices.items():
        a, b = (tensors.get(f"{name}.{kind}") for kind in ("lora_a", "lora_b"))
        if a is not None and b is not None:
            matrices = replace(matrices, a=a.to("cpu", copy=True), b=b.to("cpu", copy=True))
        found[name] = matrices
    return replace(like, matrices=found)
