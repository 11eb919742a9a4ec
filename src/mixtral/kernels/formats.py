"""Low-bit weight formats: how a quantised matrix lies in memory and what its bytes mean.

One layout serves disk, memory and every instruction set, so that a packed checkpoint is mapped and
used as it is. The unit is a *group*: 128 consecutive inputs of a row, which share one scale. A
*panel* is 32 rows; the groups of a panel lie one after the other, so that a matrix-vector product
reads memory strictly forwards. A group of a panel holds

    header   32 words of 4 bytes, one per row: extra (2 bytes), then scale (bfloat16)
    codes    lines of 64 bytes; word r of a line belongs to row r (or 16 + r) of the panel

and the code u of a weight stands for

    int8         scale * (u - 128) + offset              extra is the offset, a bfloat16
    int4, int3   scale * GRIDS[name][selector][u]        extra is 8 selectors of 2 bits

Each 16 consecutive weights (a *subgroup*) choose the grid that fits them best: 0.125 bits per
weight for the precision of a much finer scale. docs/quantization.md has the layout with a worked
example, and says where the grids come from. ``low_bit`` finds scales and codes; nothing here
chooses anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.errors import ConfigError

GROUP_SIZE = 128
"""Inputs that share one scale: an integer dot product runs this long before any float work."""
PANEL_ROWS = 32
"""Rows that lie together: two registers of 16 words."""
SUBGROUP_SIZE = 16
"""Inputs that share one grid selector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFormat:
    """Sizes of one format."""

    name: str
    """``int8``, ``int4`` or ``int3``."""
    code_bits: int
    """Bits of one code, without the group's scale and selectors."""
    group_bytes: int
    """Bytes of one group of one panel (32 x 128 weights), header included."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and selectors included."""
        return 8 * self.group_bytes / (PANEL_ROWS * GROUP_SIZE)

    def packed_shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Return panels and bytes per panel of a matrix [rows, cols], padding included.

        >>> FORMATS["int4"].packed_shape(4096, 14336)
        (128, 243712)
        """
        return -(-rows // PANEL_ROWS), -(-cols // GROUP_SIZE) * self.group_bytes


FORMATS: Mapping[str, WeightFormat] = {
    name: WeightFormat(
        name=name,
        code_bits=bits,
        group_bytes=PANEL_ROWS * 4 + PANEL_ROWS * GROUP_SIZE * bits // 8,
    )
    for name, bits in (("int8", 8), ("int4", 4), ("int3", 3))
}

# Fitted to Gaussian weights (docs/quantization.md). The first has a 0, for sparse weights and the
# neighbours of an outlier; there a 0 costs nothing, in the others it would.
GRIDS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "int4": (
        (-89, -62, -48, -37, -27, -18, -9, 0, 7, 13, 22, 31, 42, 54, 69, 88),
        (-79, -66, -53, -42, -31, -22, -13, -5, 2, 9, 18, 27, 37, 48, 61, 78),
        (-108, -87, -69, -53, -39, -26, -14, -3, 8, 19, 31, 44, 58, 75, 99, 127),
        (-127, -98, -75, -58, -44, -31, -19, -8, 3, 14, 26, 39, 52, 68, 86, 109),
    ),
    "int3": (
        (-86, -50, -24, 0, 21, 46, 79, 127),
        (-109, -66, -39, -15, 7, 30, 57, 99),
        (-81, -53, -32, -13, 6, 24, 43, 68),
        (-65, -41, -22, -3, 16, 35, 56, 85),
    ),
}

SCALE_FACTORS: Mapping[str, tuple[float, ...]] = {
    "int8": (1.0, 1.005, 1.01),
    "int4": (0.92, 0.98, 1.04, 1.1, 1.16, 1.24),
    "int3": (0.98, -1.02, 0.88, -0.9, 1.1, -1.14),
}
"""Scales that the search tries, relative to the one that just reaches the largest weight.

A negative scale mirrors the grids; with 8 entries their two halves differ enough to make it pay.
"""


def weight_format(name: str) -> WeightFormat:
    """Return the format of this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"weight format is {name!r}; it must be one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def format_of_packed(packed: Tensor, *, rows: int, cols: int) -> str:
    """Tell the format of a packed matrix by its size, which differs between all of them.

    Raises:
        ConfigError: No format of [rows, cols] has this dtype and shape.
    """
    for name, form in FORMATS.items():
        if tuple(packed.shape) == form.packed_shape(rows, cols) and packed.dtype == torch.uint8:
            return name
    raise ConfigError(
        f"packed matrix is {packed.dtype} {tuple(packed.shape)}; "
        f"no low-bit format of [{rows}, {cols}] has this shape."
    )


def zero_code(name: str) -> int:
    """Return the code of an all-zero group: 128 for int8, else where grid 0 has its 0."""
    if name == "int8":
        return 128
    return GRIDS[name][0].index(0)


def pack(codes: Tensor, scales: Tensor, extras: Tensor, name: str) -> Tensor:
    """Lay codes, scales and extras out as the format says.

    Rows are filled up to a multiple of 32 with all-zero groups.

    Args:
        codes: [N, K], uint8, K a multiple of 128.
        scales: [N, K / 128], bfloat16.
        extras: [N, K / 128], int32 from 0 to 65535: the offset's bits, or the selectors.
        name: Format.

    Returns:
        [ceil(N / 32), bytes of a panel], uint8.

    Raises:
        ConfigError: The name is unknown, or shapes and dtypes are not as above.
    """
    form = weight_format(name)
    rows, cols = codes.shape
    groups = cols // GROUP_SIZE
    fits = cols % GROUP_SIZE == 0 and scales.shape == extras.shape == (rows, groups)
    if not fits or codes.dtype != torch.uint8 or scales.dtype != torch.bfloat16:
        raise ConfigError(
            f"codes are {codes.dtype} {tuple(codes.shape)}, scales {scales.dtype} "
            f"{tuple(scales.shape)}, extras {tuple(extras.shape)}; they must be uint8 [N, K], "
            f"bfloat16 [N, K / {GROUP_SIZE}] and [N, K / {GROUP_SIZE}]. Pad K first."
        )
    padding = -rows % PANEL_ROWS
    if padding:
        codes = torch.cat((codes, codes.new_full((padding, cols), zero_code(name))))
        scales = torch.cat((scales, scales.new_zeros(padding, groups)))
        extras = torch.cat((extras, extras.new_zeros(padding, groups)))
    header = _pack_header(scales, extras)  # [P, G, 128]
    lines = _PACKERS[name](codes.view(-1, 2, 16, groups, GROUP_SIZE).permute(0, 3, 1, 2, 4))
    panels = codes.shape[0] // PANEL_ROWS
    packed = torch.cat((header, lines.reshape(panels, groups, -1)), dim=-1)
    return packed.view(panels, groups * form.group_bytes)


def unpack(packed: Tensor, name: str, *, rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take a packed matrix apart; the inverse of ``pack``.

    Args:
        packed: [ceil(rows / 32), bytes of a panel], uint8.
        name: Format.
        rows, cols: Shape of the matrix without padding.

    Returns:
        Codes, [rows, K], uint8, with K the next multiple of 128 of ``cols``; scales,
        [rows, K / 128], bfloat16; extras, [rows, K / 128], int32.

    Raises:
        ConfigError: The name is unknown, or the bytes are not a matrix of this shape.
    """
    form = weight_format(name)
    wanted = form.packed_shape(rows, cols)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != wanted:
        raise ConfigError(
            f"packed matrix is {packed.dtype} {tuple(packed.shape)}; {name} of "
            f"[{rows}, {cols}] must be torch.uint8 {wanted}."
        )
    panels, groups = wanted[0], wanted[1] // form.group_bytes
    blocks = packed.reshape(panels, groups, form.group_bytes)
    header = blocks[..., : 4 * PANEL_ROWS].reshape(panels, groups, PANEL_ROWS, 4)
    header = header.transpose(1, 2).reshape(panels * PANEL_ROWS, groups, 4)
    scales = header[..., 2:].contiguous().view(torch.bfloat16)[..., 0]
    extras = header[..., 0].int() | (header[..., 1].int() << 8)
    codes = _UNPACKERS[name](blocks[..., 4 * PANEL_ROWS :])  # [P, G, 2, 16, 128]
    codes = codes.permute(0, 2, 3, 1, 4).reshape(panels * PANEL_ROWS, groups * GROUP_SIZE)
    return codes[:rows], scales[:rows], extras[:rows]


def dequantize(packed: Tensor, name: str, *, rows: int, cols: int) -> Tensor:
    """Return the weights that a packed matrix stands for.

    Products of scale and grid entry are exact in float32; int8 rounds once, adding the offset.

    Args:
        packed: [ceil(rows / 32), bytes of a panel], uint8.
        name: Format.
        rows, cols: Shape of the matrix without padding.

    Returns:
        [rows, cols], float32.

    Raises:
        ConfigError: The name is unknown, or the bytes are not a matrix of this shape.
    """
    codes, scales, extras = unpack(packed, name, rows=rows, cols=cols)
    values = decode(codes.view(rows, -1, GROUP_SIZE), scales, extras, name)
    return values.view(rows, -1)[:, :cols].contiguous()


def decode(codes: Tensor, scales: Tensor, extras: Tensor, name: str) -> Tensor:
    """Return the values of codes, by the two formulas at the top of this file.

    Args:
        codes: [..., 128], uint8.
        scales: [...], bfloat16.
        extras: [...], int32.
        name: Format.

    Returns:
        [..., 128], float32.
    """
    scale = scales.float()[..., None]
    if name == "int8":
        return scale * (codes.float() - 128) + bfloat16_from_bits(extras).float()[..., None]
    grids = torch.tensor(GRIDS[name], dtype=torch.float32, device=codes.device)
    selectors = unpack_selectors(extras).repeat_interleave(SUBGROUP_SIZE, dim=-1)
    return scale * grids[selectors, codes.long()]


def pack_selectors(selectors: Tensor) -> Tensor:
    """Join 8 selectors, [..., 8] of 0..3, to one extra, [...], int32; subgroup 0 lowest."""
    shifts = torch.arange(0, 16, 2, dtype=torch.int32, device=selectors.device)
    return (selectors.int() << shifts).sum(dim=-1, dtype=torch.int32)


def unpack_selectors(extras: Tensor) -> Tensor:
    """Split extras, [...], into selectors, [..., 8], int64."""
    shifts = torch.arange(0, 16, 2, device=extras.device)
    return (extras.long()[..., None] >> shifts) & 3


def bfloat16_bits(values: Tensor) -> Tensor:
    """Return the bits of bfloat16 values as int32 from 0 to 65535."""
    return values.bfloat16().contiguous().view(torch.int16).int() & 0xFFFF


def bfloat16_from_bits(bits: Tensor) -> Tensor:
    """Return the bfloat16 values that these bits, int32 from 0 to 65535, stand for."""
    # Past 32767 a signed word is negative.
    return (bits - ((bits >> 15) << 16)).to(torch.int16).view(torch.bfloat16)


def _pack_header(scales: Tensor, extras: Tensor) -> Tensor:
    """Join [N, G] scales and extras to words, [P, G, 128], uint8."""
    bits = bfloat16_bits(scales)
    parts = (extras & 0xFF, extras >> 8, bits & 0xFF, bits >> 8)
    header = torch.stack(parts, dim=-1).to(torch.uint8)  # [N, G, 4]
    panels = header.shape[0] // PANEL_ROWS
    words = header.view(panels, PANEL_ROWS, -1, 4).transpose(1, 2)
    return words.reshape(panels, -1, 4 * PANEL_ROWS)


# The six functions below move the digits of k between the axes of codes [P, G, 2, 16, 128] (panel,
# group, half, row, k) and the bytes of a group; q numbers the steps, j the bytes of a word.


def _pack_int8(codes: Tensor) -> Tensor:
    """K = 4 q + j."""
    digits: Tensor = codes.unflatten(-1, (32, 4))
    return digits.permute(0, 1, 4, 2, 3, 5)  # [P, G, q, 2, 16, j]


def _unpack_int8(lines: Tensor) -> Tensor:
    digits: Tensor = lines.unflatten(-1, (32, 2, 16, 4))
    return digits.permute(0, 1, 3, 4, 2, 5).flatten(-2)


def _pack_int4(codes: Tensor) -> Tensor:
    """K = 8 q + 4 n + j, with n = 1 in the high nibble."""
    digits: Tensor = codes.unflatten(-1, (16, 2, 4))
    joined = digits[..., 0, :] | (digits[..., 1, :] << 4)
    return joined.permute(0, 1, 4, 2, 3, 5)


def _unpack_int4(lines: Tensor) -> Tensor:
    joined = lines.unflatten(-1, (16, 2, 16, 4)).permute(0, 1, 3, 4, 2, 5)
    return torch.stack((joined & 15, joined >> 4), dim=-2).flatten(-3)


def _pack_int3(codes: Tensor) -> Tensor:
    """K = 16 q + 4 i + j: two bits of four codes in a byte, their third bits in masks."""
    digits = codes.unflatten(-1, (8, 4, 4)).permute(0, 1, 4, 2, 5, 3, 6)  # [P, G, q, 2, i, 16, j]
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=codes.device).view(4, 1, 1)
    low = ((digits & 3) << shifts).sum(dim=-3, dtype=torch.uint8)  # [P, G, q, 2, 16, j]
    bits = (digits >> 2).flatten(-2).unflatten(-1, (8, 8))  # bit 4 r + j, as bytes of 8 bits
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    masks = (bits << places).sum(dim=-1, dtype=torch.uint8)  # [P, G, q, 2, i, 8]
    return torch.cat((low.flatten(-3), masks.flatten(-3)), dim=-1)


def _unpack_int3(lines: Tensor) -> Tensor:
    steps = lines.unflatten(-1, (8, 192))
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=lines.device).view(4, 1, 1)
    low = steps[..., :128].unflatten(-1, (2, 1, 16, 4))
    places = torch.arange(8, dtype=torch.uint8, device=lines.device)
    masks = steps[..., 128:].unflatten(-1, (2, 4, 8))
    high = ((masks[..., None] >> places) & 1).flatten(-2).unflatten(-1, (16, 4))
    digits: Tensor = ((low >> shifts) & 3) | (high << 2)  # [P, G, q, 2, i, 16, j]
    return digits.permute(0, 1, 3, 5, 2, 4, 6).flatten(-3)


_PACKERS = {"int8": _pack_int8, "int4": _pack_int4, "int3": _pack_int3}
_UNPACKERS = {"int8": _unpack_int8, "int4": _unpack_int4, "int3": _unpack_int3}
