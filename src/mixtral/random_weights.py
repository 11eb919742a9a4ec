"""Random weights of any geometry, dense or packed, made as fast as memory can be written.

They stand in for weights that are not at hand: speed and memory do not depend on the values. Every
tensor is cut from one pool, each from another place: filling 90 GB then costs a copy, not a draw
per weight.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.kernels.formats import FORMATS, GROUP_SIZE, PANEL_ROWS
from mixtral.kernels.huge_pages import empty_bytes
from mixtral.kernels.quantize import quantize
from mixtral.model import Transformer
from mixtral.quantization import QuantizationRecipe
from mixtral.validation import require_int

# Primes, so that tensors of power-of-two sizes start at ever new places of the pool.
_POOL_SIZE = 16_777_259
_PACKED_POOL_GROUPS = 1021
_STD = 0.02


def random_tensors(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Make random weights of a geometry, one tensor at a time: normal, standard deviation 0.02.

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
    pool = _Pool(
        torch.randn(_POOL_SIZE, generator=_generator(seed)).mul_(_STD).to(dtype).to(device)
    )
    for name, shape in _shapes(config):
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=dtype, device=device)
        else:
            yield name, pool.cut(torch.empty(shape, dtype=dtype, device=device))


def random_packed_tensors(
    config: ModelConfig, recipe: QuantizationRecipe, *, seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Make random weights in the formats of a recipe without quantising more than a pool of them.

    Args:
        config: Geometry; a tied head becomes a matrix of its own.
        recipe: Formats of the parts.
        seed: Same seed, same weights.

    Yields:
        Names and tensors as ``checkpoint.quantized_tensors`` gives them.

    Raises:
        ConfigError: The seed is outside 0 to 2**63 - 1.
    """
    generator = _generator(seed)
    plain = _Pool(torch.randn(_POOL_SIZE, generator=generator).mul_(_STD).bfloat16())
    groups = torch.randn(PANEL_ROWS, _PACKED_POOL_GROUPS * GROUP_SIZE, generator=generator)
    pools: dict[str, _Pool] = {}
    for name, shape in _shapes(config.replace(tie_word_embeddings=False)):
        form = FORMATS.get(recipe.format_of(name) or "")
        if len(shape) == 1:
            yield name, torch.ones(shape)
        elif form is None:
            yield name, plain.cut(torch.empty(shape, dtype=torch.bfloat16))
        else:
            if form.name not in pools:
                pools[form.name] = _Pool(quantize(groups * _STD, form.name).flatten())
            packed = empty_bytes(*form.packed_shape(shape[0], shape[1]))
            # Whole groups: what is cut anywhere else is no header where one is expected.
            yield (
                name.removesuffix("weight") + "packed",
                pools[form.name].cut(packed, unit=form.group_bytes),
            )


class _Pool:
    """A vector from which tensors are cut one after the other, around and around."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._at = 0

    def cut(self, tensor: Tensor, unit: int = 1) -> Tensor:
        """Fill a contiguous tensor, in place; ``unit`` divides its size and the pool's."""
        flat, size = tensor.view(-1), len(self._values)
        filled = 0
        while filled < len(flat):
            count = min(len(flat) - filled, size - self._at)
            flat[filled : filled + count] = self._values[self._at : self._at + count]
            filled += count
            self._at = (self._at + count) % size
        assert self._at % unit == 0
        return tensor


def _generator(seed: int) -> torch.Generator:
    require_int("seed", seed, low=0, high=2**63 - 1)
    return torch.Generator().manual_seed(seed)


def _shapes(config: ModelConfig) -> list[tuple[str, torch.Size]]:
    with torch.device("meta"):
        return [(name, p.shape) for name, p in Transformer(config).named_parameters()]
