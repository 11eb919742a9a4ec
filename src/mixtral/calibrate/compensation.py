"""Round a matrix column by column; what is still to come makes up for each error.

Plain rounding keeps the weights close. What matters is that the outputs stay close: the sum over
calibration inputs x of |W x - Q x|^2, which the weights enter through the second moments
H = sum(x x^T) alone. GPTQ (arXiv:2210.17323) minimises it greedily: round column k, then move the
columns after k by the amount that best hides the error, which the inverse of H gives in closed
form. With U the upper Cholesky factor of the inverse, e = (w_k - q_k) / U[k, k] and

    w_j  <-  w_j - e U[k, j]    for all j > k.

The columns keep their order, so a group of 128 is met as a whole: its scale is searched on the
weights as they stand then, moved by the errors before; each subgroup of 16 chooses its grid when
its turn comes. Within a group columns are moved one by one, those of later groups once per group
(section 3.3 of the paper, "lazy batch updates").
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.errors import ConfigError
from mixtral.kernels import formats, low_bit
from mixtral.kernels.formats import GROUP_SIZE, SUBGROUP_SIZE
from mixtral.kernels.low_bit import GridTables, QuantizedGroups

# Moments that are nearly singular need more damping; beyond this they are not moments.
_MAX_DAMPING = 10.0


def quantize_compensated(weight: Tensor, moments: Tensor, name: str, *, damping: float) -> Tensor:
    """Quantise and pack a matrix so that its outputs on the calibration inputs change least.

    Args:
        weight: [N, K], any float dtype, finite.
        moments: Sum of x x^T over the inputs, [K, K], float32.
        name: Format: ``int8``, ``int4`` or ``int3``.
        damping: Added to the diagonal of the moments, relative to its mean.

    Returns:
        [ceil(N / 32), bytes of a panel], uint8: the same format as from plain rounding.

    Raises:
        ConfigError: The format is unknown, or the weight or the moments are not finite.
    """
    formats.weight_format(name)
    low_bit.check_weight(weight)
    padding = -weight.shape[1] % GROUP_SIZE
    rest = functional.pad(weight.float(), (0, padding))  # [N, K], moved as errors come
    factor = _inverse_factor(functional.pad(moments, (0, padding, 0, padding)), damping)
    parts = []
    for start in range(0, rest.shape[1], GROUP_SIZE):
        end = start + GROUP_SIZE
        group, errors = _round_group(rest[:, start:end], factor[start:end, start:end], name)
        rest[:, end:] -= errors @ factor[start:end, end:]
        parts.append(group)
    return formats.pack(
        torch.cat([part.codes for part in parts], dim=1),
        torch.stack([part.scales for part in parts], dim=1),
        torch.stack([part.extras for part in parts], dim=1),
        name,
    )


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """Return the upper triangular U with U^T U = inverse of the damped moments.

    Raises:
        ConfigError: The moments are not finite.
    """
    diagonal = moments.diagonal()
    mean = diagonal.mean()
    if not mean.isfinite():
        raise ConfigError(
            f"calibration inputs have a mean square of {mean.item()}; it must be finite. "
            "Calibrate with a model in bfloat16 or float32."
        )
    size = mean if mean > 0 else torch.ones_like(mean)
    # An input that is always 0 has no influence; any value keeps its column apart.
    dead = torch.where(diagonal == 0, size, 0)
    while damping <= _MAX_DAMPING:
        damped = moments + torch.diag(dead + damping * size)
        # With rows and columns turned around, the lower factor becomes the upper one, R, of
        # moments = R R^T, and U is its inverse: one factorisation and no product.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            identity = torch.eye(len(damped), device=damped.device)
            upper = lower.flip(0, 1)
            factor: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
            return factor
        damping *= 10
    raise ConfigError("calibration inputs have second moments that are not positive definite.")


def _round_group(weights: Tensor, factor: Tensor, name: str) -> tuple[QuantizedGroups, Tensor]:
    """Round 128 columns, moving those after each one.

    Args:
        weights: [N, 128], float32.
        factor: The group's part of U, [128, 128].
        name: Format.

    Returns:
        The group of each row, and the errors e of each column, [N, 128].
    """
    weights = weights.clone()
    found = low_bit.quantize_groups(weights, name)
    rounder: _Rounder = _Affine(found) if name == "int8" else _Grids(found, name)
    codes = torch.empty_like(found.codes)
    errors = torch.empty_like(weights)
    for k in range(GROUP_SIZE):
        if k % SUBGROUP_SIZE == 0:
            rounder.begin_subgroup(k, weights[:, k : k + SUBGROUP_SIZE])
        codes[:, k], values = rounder.round(k, weights[:, k])
        errors[:, k] = (weights[:, k] - values) / factor[k, k]
        weights[:, k + 1 :] -= errors[:, k, None] * factor[k, k + 1 :]
    return QuantizedGroups(codes=codes, scales=found.scales, extras=rounder.extras()), errors


class _Rounder(Protocol):
    """Rounds the columns of one group of N rows."""

    def begin_subgroup(self, k: int, weights: Tensor) -> None:
        """Look at the next 16 columns, [N, 16], before the first of them is rounded."""

    def round(self, k: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes, uint8, and values, float32, of column k, [N]."""

    def extras(self) -> Tensor:
        """Return the extras, [N], int32."""


class _Affine:
    """int8: scale and offset stand from the start."""

    def __init__(self, found: QuantizedGroups) -> None:
        self._extras = found.extras
        self._scale = found.scales.float()
        self._offset = formats.bfloat16_from_bits(found.extras).float()
        self._divisor = torch.where(self._scale == 0, 1, self._scale)

    def begin_subgroup(self, k: int, weights: Tensor) -> None:
        """Do nothing: there are no grids to choose from."""

    def round(self, k: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """As ``_Rounder``."""
        steps = ((weights - self._offset) / self._divisor).round().clamp(-128, 127)
        return (steps + 128).to(torch.uint8), self._scale * steps + self._offset

    def extras(self) -> Tensor:
        """As ``_Rounder``."""
        return self._extras


class _Grids:
    """int4 and int3: the scale stands from the start, grids are chosen as subgroups come."""

    def __init__(self, found: QuantizedGroups, name: str) -> None:
        self._tables = GridTables(name, found.codes.device)
        self._scales = found.scales
        self._selectors = formats.unpack_selectors(found.extras)  # [N, 8]

    def begin_subgroup(self, k: int, weights: Tensor) -> None:
        """As ``_Rounder``."""
        points = self._tables.points(weights, self._scales)
        self._selectors[:, k // SUBGROUP_SIZE], _ = self._tables.best_grids(points)

    def round(self, k: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """As ``_Rounder``."""
        selectors = self._selectors[:, k // SUBGROUP_SIZE]
        points = self._tables.points(weights[:, None], self._scales)[:, 0]
        codes = self._tables.codes(points, selectors)
        return codes, self._scales.float() * self._tables.values(codes, selectors)

    def extras(self) -> Tensor:
        """As ``_Rounder``."""
        return formats.pack_selectors(self._selectors)
