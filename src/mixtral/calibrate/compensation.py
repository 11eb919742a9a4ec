"""Round a matrix column by column; what is still to come makes up for each error.

Plain rounding keeps the weights close. What matters is that the outputs stay close: the sum over
calibration inputs x of |W x - Q x|^2, which the weights enter through the second moments
H = sum(x x^T) alone. GPTQ (arXiv:2210.17323) minimises it greedily: round column k, then move the
columns after k by the amount that best hides the error, which the inverse of H gives in closed
form. With U the upper Cholesky factor of the inverse, e = (w_k - q_k) / U[k, k] and

    w_j  <-  w_j - e U[k, j]    for all j > k.

The columns keep their order, so a group of 128 is met as a whole: its scale is searched on the
weights as they stand then, moved by the errors before; each subgroup of 16 chooses its grid when
its turn comes. Columns of the same subgroup are moved one by one, those of later subgroups and
groups by one product for all of it (section 3.3 of the paper, "lazy batch updates").
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.errors import ConfigError
from mixtral.kernels import formats, low_bit
from mixtral.kernels.formats import GROUP_SIZE, SUBGROUP_SIZE
from mixtral.kernels.low_bit import GridTables, QuantizedGroups
from mixtral.kernels.quantize import quantize

# Moments that are nearly singular need more damping; beyond this they are not moments.
_MAX_DAMPING = 10.0


def quantize_compensated(weight: Tensor, factor: Tensor, name: str) -> Tensor:
    """Quantise and pack a matrix so that its outputs on the calibration inputs change least.

    Args:
        weight: [N, K], any float dtype, finite.
        factor: U of its inputs (``inverse_factor``), K padded to a multiple of 128.
        name: Format: ``int8``, ``int4`` or ``int3``.

    Returns:
        [ceil(N / 32), bytes of a panel], uint8: the same format as from plain rounding.

    Raises:
        ConfigError: The format is unknown, or the weight is not finite.
    """
    formats.weight_format(name)
    low_bit.check_weight(weight)
    padding = -weight.shape[1] % GROUP_SIZE
    rest = functional.pad(weight.float(), (0, padding))  # [N, K], moved as errors come
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


def inverse_factor(moments: Tensor, *, damping: float) -> Tensor:
    """Return the upper triangular U with U^T U = inverse of the damped moments.

    Args:
        moments: Sum of x x^T over the inputs, [K, K], float32.
        damping: Added to the diagonal of the moments, relative to its mean.

    Returns:
        [K, K], with K padded to a multiple of 128.

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
    padding = -len(moments) % GROUP_SIZE
    if padding:
        moments = functional.pad(moments, (0, padding, 0, padding))
        diagonal = moments.diagonal()
    size = mean if mean > 0 else torch.ones_like(mean)
    # An input that is always 0 has no influence; any value keeps its column apart.
    dead = torch.where(diagonal == 0, size, 0)
    while damping <= _MAX_DAMPING:
        # With rows and columns turned around, the lower factor is that of moments = R R^T with R
        # upper, and U is the inverse of R: one factorisation and no product.
        turned = moments.flip(0, 1)
        turned.diagonal().add_((dead + damping * size).flip(0))
        lower, failed = torch.linalg.cholesky_ex(turned)
        if not failed:
            del turned  # 0.8 GB for w2 of 8x7B
            identity = torch.eye(len(lower), device=lower.device)
            inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
            return inverse.flip(0, 1)
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
    rounder: _Rounder = _Affine(weights) if name == "int8" else _Grids(weights, name)
    columns = weights.T.contiguous()  # [128, N]
    codes = torch.empty_like(columns, dtype=torch.uint8)
    errors = torch.empty_like(columns)
    for start in range(0, GROUP_SIZE, SUBGROUP_SIZE):
        end = start + SUBGROUP_SIZE
        rounder.begin_subgroup(columns[start:end])
        for k in range(start, end):
            codes[k], values = rounder.round(columns[k])
            errors[k] = (columns[k] - values) / factor[k, k]
            columns[k + 1 : end] -= factor[k, k + 1 : end, None] * errors[k]
        columns[end:] -= factor[start:end, end:].T @ errors[start:end]
    found = QuantizedGroups(codes=codes.T, scales=rounder.scales, extras=rounder.extras())
    return found, errors.T


def _search(weights: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Find scales, bfloat16, and extras, int32, of N groups [N, 128] as plain rounding does."""
    packed = quantize(weights, name)
    _, scales, extras = formats.unpack(packed, name, rows=len(weights), cols=GROUP_SIZE)
    return scales[:, 0], extras[:, 0]


class _Rounder(Protocol):
    """Rounds the columns of one group of N rows, one after the other."""

    scales: Tensor
    """[N], bfloat16."""

    def begin_subgroup(self, columns: Tensor) -> None:
        """Look at the next 16 columns, [16, N], before the first of them is rounded."""

    def round(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes, uint8, and values, float32, of the next column, [N]."""

    def extras(self) -> Tensor:
        """Return the extras, [N], int32."""


class _Affine:
    """int8: scale and offset stand from the start."""

    def __init__(self, weights: Tensor) -> None:
        self.scales, self._extras = _search(weights, "int8")
        self._scale = self.scales.float()
        self._offset = formats.bfloat16_from_bits(self._extras).float()
        self._divisor = torch.where(self._scale == 0, 1, self._scale)

    def begin_subgroup(self, columns: Tensor) -> None:
        """Do nothing: there are no grids to choose from."""

    def round(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """As ``_Rounder``."""
        steps = ((column - self._offset) / self._divisor).round().clamp(-128, 127)
        return (steps + 128).to(torch.uint8), self._scale * steps + self._offset

    def extras(self) -> Tensor:
        """As ``_Rounder``."""
        return self._extras


class _Grids:
    """int4 and int3: the scale stands from the start, grids are chosen as subgroups come."""

    def __init__(self, weights: Tensor, name: str) -> None:
        self.scales, _ = _search(weights, name)
        self._tables = GridTables(name, weights.device)
        self._selectors: list[Tensor] = []

    def begin_subgroup(self, columns: Tensor) -> None:
        """As ``_Rounder``."""
        selectors, _ = self._tables.best_grids(self._tables.points(columns.T, self.scales))
        self._selectors.append(selectors)

    def round(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """As ``_Rounder``."""
        points = self._tables.points(column[:, None], self.scales)[:, 0]
        codes = self._tables.codes(points, self._selectors[-1])
        return codes, self.scales.float() * self._tables.values(codes, self._selectors[-1])

    def extras(self) -> Tensor:
        """As ``_Rounder``."""
        return formats.pack_selectors(torch.stack(self._selectors, dim=-1))
