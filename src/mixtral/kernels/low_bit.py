"""Quantise a matrix to int8, int4 or int3: the plain specification.

Slow and obvious; the C++ quantiser must give the same bytes, so every rounding has its place: what
is float32 and what is float64 is said below, and sums of float64 run in the order of k.

The scale of a group is not the one that just reaches its largest weight. The search tries a few
scales (``SCALE_FACTORS``), lets each 16 weights choose their grid, keeps the scale of least squared
error, then twice moves the scale to where least squares would put it for the codes just chosen and
keeps that if it is better. docs/quantization.md has the errors that this reaches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.errors import ConfigError
from mixtral.kernels import formats
from mixtral.kernels.formats import GROUP_SIZE, PANEL_ROWS, SUBGROUP_SIZE

# Weights beyond this could make a scale overflow; those of a model are around 0.01.
_MAX_WEIGHT = 2.0**100
# A weight that is at most amax meets grid entries up to 127; farther out nothing can change.
_LOWEST, _HIGHEST = -192, 191
_NUM_REFITS = 2
# Keeps the search's tables of a piece near 100 MB.
_ROWS_AT_ONCE_ELEMENTS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedGroups:
    """Groups of 128 weights in codes; n groups."""

    codes: Tensor
    """[n, 128], uint8."""
    scales: Tensor
    """[n], bfloat16."""
    extras: Tensor
    """[n], int32: bits of the offset (int8) or selectors (int4, int3)."""


def quantize(weight: Tensor, name: str) -> Tensor:
    """Quantise and pack a matrix; equal weights give equal bytes.

    Args:
        weight: [N, K], any float dtype, finite.
        name: Format: ``int8``, ``int4`` or ``int3``.

    Returns:
        [ceil(N / 32), bytes of a panel], uint8 (``WeightFormat.packed_shape``).

    Raises:
        ConfigError: The format is unknown, the weight is not a matrix of floats, or holds a
            value that is not finite.
    """
    form = formats.weight_format(name)
    check_weight(weight)
    rows, cols = weight.shape
    packed = torch.empty(form.packed_shape(rows, cols), dtype=torch.uint8, device=weight.device)
    step = max(PANEL_ROWS, _ROWS_AT_ONCE_ELEMENTS // cols // PANEL_ROWS * PANEL_ROWS)
    for row in range(0, rows, step):
        piece = functional.pad(weight[row : row + step].float(), (0, -cols % GROUP_SIZE))
        found = quantize_groups(piece.view(-1, GROUP_SIZE), name)
        shape = (piece.shape[0], -1)
        panel = row // PANEL_ROWS
        panels = formats.pack(
            found.codes.view(shape), found.scales.view(shape), found.extras.view(shape), name
        )
        packed[panel : panel + panels.shape[0]] = panels
    return packed


def check_weight(weight: Tensor) -> None:
    """Check that a matrix can be quantised.

    Raises:
        ConfigError: It is not a matrix of floats with at least one element, or holds NaN, an
            infinity, or a value above 2 ** 100.
    """
    if weight.dim() != 2 or not weight.is_floating_point() or weight.numel() == 0:
        raise ConfigError(
            f"weight is {weight.dtype} {tuple(weight.shape)}; "
            "it must be a matrix of floats with at least one row and one column."
        )
    # In float16, 2**100 would be infinity.
    limit = min(_MAX_WEIGHT, torch.finfo(weight.dtype).max)
    is_bad = ~(weight.abs() <= limit)
    if is_bad.any():
        row, col = (int(index) for index in is_bad.nonzero()[0])
        raise ConfigError(
            f"weight[{row}, {col}] is {weight[row, col].item()}; {int(is_bad.sum())} of "
            f"{weight.numel()} weights are not finite numbers of at most 2**100. "
            "Check the checkpoint's source."
        )


def quantize_groups(groups: Tensor, name: str) -> QuantizedGroups:
    """Find scale, extra and codes of each group.

    Args:
        groups: [n, 128], float32, finite.
        name: Format.
    """
    return _quantize_affine(groups) if name == "int8" else _quantize_grids(groups, name)


def _quantize_affine(groups: Tensor) -> QuantizedGroups:
    """The int8 formula, float32 with one rounding per operation; errors are float64."""
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scales = torch.zeros_like(low)
    offsets = low.bfloat16().float()
    values = torch.zeros_like(groups)
    least = torch.full_like(low, float("inf"), dtype=torch.float64)
    for factor in formats.SCALE_FACTORS["int8"]:
        scale = ((high - low) / 255 * _float32(factor)).bfloat16().float()
        offset = ((high + low) * 0.5 + scale * 0.5).bfloat16().float()
        value = ((groups - offset[:, None]) / scale[:, None]).round().clamp(-128, 127)
        decoded = scale.double()[:, None] * value.double() + offset.double()[:, None]
        cost = _sum_in_order((groups.double() - decoded).square())
        is_better = (scale != 0) & (cost < least)
        least = torch.where(is_better, cost, least)
        scales = torch.where(is_better, scale, scales)
        offsets = torch.where(is_better, offset, offsets)
        values = torch.where(is_better[:, None], value, values)
    return QuantizedGroups(
        codes=(values + 128).to(torch.uint8),
        scales=scales.bfloat16(),
        extras=formats.bfloat16_bits(offsets),
    )


def _quantize_grids(groups: Tensor, name: str) -> QuantizedGroups:
    search = _GridSearch(groups, name)
    largest = groups.abs().amax(dim=-1)
    for factor in formats.SCALE_FACTORS[name]:
        search.consider((largest * _float32(factor) / 127).bfloat16())
    for _ in range(_NUM_REFITS):
        search.consider(search.least_squares_scale())
    return search.best()


class GridTables:
    """Which code of each grid is nearest to a weight, by lookup.

    A *point* is a weight in units of its scale, rounded to a whole number from -192 to 191.

    Args:
        name: ``int4`` or ``int3``.
        device: Where the tables lie.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.grids = torch.tensor(formats.GRIDS[name], dtype=torch.int32, device=device)
        points = torch.arange(_LOWEST, _HIGHEST + 1, dtype=torch.int32, device=device)
        squares = (points[:, None, None] - self.grids).square()  # [384, 4, 8 or 16]
        # argmin gives no promise on ties, so the code is part of what is compared.
        order = torch.arange(squares.shape[-1], dtype=torch.int32, device=device)
        nearest = (squares * 16 + order).amin(dim=-1)  # [384, 4]
        self._errors, self._codes = nearest >> 4, (nearest & 15).to(torch.uint8)

    def points(self, weights: Tensor, scales: Tensor) -> Tensor:
        """Return the rows of the tables for weights [n, k] with scales [n], int32.

        A scale of 0, or one so small that its inverse overflows, puts all weights at 0.
        """
        inverse = 1 / scales.float()
        scaled = weights * torch.where(inverse.isfinite(), inverse, 0)[:, None]
        return scaled.round().clamp(_LOWEST, _HIGHEST).int() - _LOWEST

    def best_grids(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the grid of least error for each subgroup, the lowest on a tie.

        Args:
            points: [..., 16].

        Returns:
            Selectors and sums of squared errors, [...], int64.
        """
        sums = self._errors[points].sum(dim=-2)  # [..., 4]
        lowest = (sums * 4 + torch.arange(4, device=sums.device)).amin(dim=-1)
        return lowest & 3, lowest >> 2

    def codes(self, points: Tensor, selectors: Tensor) -> Tensor:
        """Return the nearest codes, uint8, of points [...] in grids [...]."""
        return self._codes[points, selectors]

    def values(self, codes: Tensor, selectors: Tensor) -> Tensor:
        """Return the grid entries, int32, of codes [...] in grids [...]."""
        return self.grids[selectors, codes.long()]


class _GridSearch:
    """Tries scales on n groups and keeps the best of each group, the first one on a tie."""

    def __init__(self, groups: Tensor, name: str) -> None:
        self._groups = groups
        self._tables = GridTables(name, groups.device)
        n = groups.shape[0]
        self._least = groups.new_full((n,), float("inf"), dtype=torch.float64)
        self._scales = groups.new_zeros(n, dtype=torch.bfloat16)
        self._selectors = groups.new_zeros(n, GROUP_SIZE // SUBGROUP_SIZE, dtype=torch.int64)
        self._codes = torch.full_like(groups, formats.zero_code(name), dtype=torch.uint8)

    def consider(self, scale: Tensor) -> None:
        """Quantise every group with its scale, [n] bfloat16, and keep what is strictly better.

        A scale of 0, or one so small that its inverse overflows, is passed over.
        """
        points = self._tables.points(self._groups, scale).unflatten(-1, (-1, SUBGROUP_SIZE))
        selectors, errors = self._tables.best_grids(points)  # [n, 8]
        cost = errors.sum(dim=-1).double() * scale.double().square()
        is_better = (1 / scale.float()).isfinite() & (cost < self._least)
        codes = self._tables.codes(points, selectors[..., None]).flatten(-2)
        self._least = torch.where(is_better, cost, self._least)
        self._scales = torch.where(is_better, scale, self._scales)
        self._selectors = torch.where(is_better[:, None], selectors, self._selectors)
        self._codes = torch.where(is_better[:, None], codes, self._codes)

    def least_squares_scale(self) -> Tensor:
        """Return the scale that fits each group best with its codes so far, [n], bfloat16."""
        selectors = self._selectors.repeat_interleave(SUBGROUP_SIZE, dim=-1)
        values = self._tables.values(self._codes, selectors).double()
        products = _sum_in_order(self._groups.double() * values)
        fitted = products / values.square().sum(dim=-1)
        return torch.where(self._scales == 0, 0, fitted).float().bfloat16()

    def best(self) -> QuantizedGroups:
        """Return what was kept."""
        return QuantizedGroups(
            codes=self._codes,
            scales=self._scales,
            extras=formats.pack_selectors(self._selectors),
        )


def _sum_in_order(terms: Tensor) -> Tensor:
    """Add the columns of [n, 128] one after the other, which ``sum`` does not promise."""
    total = torch.zeros_like(terms[:, 0])
    for column in terms.unbind(dim=-1):
        total = total + column
    return total


def _float32(value: float) -> Tensor:
    """A scalar tensor, so that torch multiplies in float32 by the rounded factor."""
    return torch.tensor(value, dtype=torch.float32)
