"""From a model's name to a model in memory: weights, dtype, device."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.checkpoint import open_checkpoint, resolve_model_path
from mixtral.config import BYTES_PER_ELEMENT, ModelConfig
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.machine import available_memory_bytes
from mixtral.model import Transformer
from mixtral.model_source import ModelSource, find_model, is_hub_id
from mixtral.validation import require_int

logger = logging.getLogger(__name__)

# A prime, so that tensors of power-of-two sizes start at ever new places of the pool.
_POOL_SIZE = 16_777_259


def find_or_download(name: str | Path, *, layers: int | None = None) -> ModelSource:
    """Find a model by name, downloading a hub id first.

    Raises:
        ConfigError: The name means nothing.
        CheckpointError: The download failed, or the folder is not a model.
    """
    name = str(name)
    if is_hub_id(name) and not name.startswith("random:"):
        return find_model(str(resolve_model_path(name, progress=True)), layers=layers)
    return find_model(name, layers=layers)


def load_model(
    source: ModelSource, *, dtype: str | None = None, device: str = "cpu", seed: int = 0
) -> Transformer:
    """Load a model, ready for inference.

    On the CPU, weights that are stored in the wanted dtype stay in the memory map of their file;
    all others are read, converted and released one matrix at a time.

    Args:
        source: Where the weights come from.
        dtype: float32, bfloat16 or float16; None keeps what is stored.
        device: A torch device.
        seed: Seed of random weights.

    Raises:
        ConfigError: The dtype or device is unknown.
        UnsupportedError: The device is not there, or the weights do not fit into memory.
        CheckpointError: A file is wrong.
    """
    where = torch_device(device)
    wanted = torch_dtype(dtype or source.config.dtype)
    if source.folder is None:
        refuse_if_too_large(source.config, str(wanted).removeprefix("torch."), where)
        tensors = random_tensors(source.config, dtype=wanted, device=where, seed=seed)
        model = Transformer.from_tensors(source.config, tensors, where)
    else:
        checkpoint = open_checkpoint(source.folder)
        wanted = torch_dtype(dtype or checkpoint.dtype)
        if where.type == "cpu" and checkpoint.dtype != str(wanted).removeprefix("torch."):
            refuse_if_too_large(source.config, str(wanted).removeprefix("torch."), where)
        model = Transformer.from_tensors(checkpoint.config, checkpoint.tensors(dtype=wanted), where)
    # torch's grouped matmul takes bfloat16 alone, and older versions do not have it.
    can_group = wanted == torch.bfloat16 and hasattr(functional, "grouped_mm")
    if where.type == "cuda" and can_group and not model.config.is_dense:
        model.stack_experts()
    return model


def random_tensors(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Make random weights of a geometry, one tensor at a time.

    Every tensor is cut from one pool of normal numbers (standard deviation 0.02), each from
    another place: filling 90 GB then costs a copy, not a draw per weight.

    Args:
        config: Geometry.
        dtype: Type of the weights.
        device: Where they are made.
        seed: Same seed, same weights.

    Yields:
        Names of ``state_dict`` and tensors.

    Raises:
        ConfigError: The seed is outside 0 to 2**63 - 1.
    """
    require_int("seed", seed, low=0, high=2**63 - 1)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(_POOL_SIZE, generator=generator).mul_(0.02).to(dtype).to(device)
    with torch.device("meta"):
        shapes = [(name, p.shape) for name, p in Transformer(config).named_parameters()]
    at = 0
    for name, shape in shapes:
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=dtype, device=device)
            continue
        tensor = torch.empty(shape, dtype=dtype, device=device)
        flat = tensor.view(-1)
        filled = 0
        while filled < len(flat):
            count = min(len(flat) - filled, _POOL_SIZE - at)
            flat[filled : filled + count] = pool[at : at + count]
            filled += count
            at = (at + count) % _POOL_SIZE
        yield name, tensor


def torch_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: There is no such device name.
        UnsupportedError: This machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; it must be auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            "device is 'cuda', but this torch sees no CUDA GPU; use device='cpu', or install "
            "a CUDA build of torch and its driver."
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be auto, cpu or cuda.")
    return device


def torch_dtype(name: str) -> torch.dtype:
    """Return a dtype by name.

    Raises:
        ConfigError: It is not one of the supported ones.
    """
    if name not in BYTES_PER_ELEMENT:
        allowed = ", ".join(BYTES_PER_ELEMENT)
        raise ConfigError(f"dtype is {name!r}; it must be one of {allowed}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def refuse_if_too_large(config: ModelConfig, dtype: str, device: torch.device) -> None:
    """Check that weights of a dtype fit into the free memory of a device.

    Raises:
        UnsupportedError: They do not.
    """
    needed = config.num_parameters * BYTES_PER_ELEMENT[dtype]
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else available_memory_bytes()
    if needed > free:
        raise UnsupportedError(
            f"the weights take {needed / 1e9:.1f} GB in {dtype} and {free / 1e9:.1f} GB of "
            f"{device.type} memory are free; use fewer layers (--layers), a smaller model, "
            "or a machine with more memory."
        )
