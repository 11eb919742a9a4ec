"""Low-bit formats: the bytes against a worked example, and the quantiser's error and honesty."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.kernels import formats
from mixtral.kernels.formats import FORMATS, GRIDS, GROUP_SIZE, dequantize, pack, unpack
from mixtral.kernels.low_bit import quantize

NAMES = sorted(FORMATS)
# Relative RMS error on Gaussian weights, and bits per weight. llama.cpp: Q8_0 0.0054 at 8.5 bits,
# Q4_0 0.0859 at 4.5, Q3_K 0.151 at 3.44.
GOALS = {"int8": (0.006, 8.25), "int4": (0.074, 4.25), "int3": (0.146, 3.25)}


def gaussian(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def relative_error(weight: Tensor, name: str) -> float:
    rows, cols = weight.shape
    decoded = dequantize(quantize(weight, name), name, rows=rows, cols=cols)
    # The squares of 1e-30 vanish in float32.
    return float((decoded - weight).double().norm() / weight.double().norm())


def random_parts(rows: int, groups: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + groups)
    top = 2 ** FORMATS[name].code_bits
    codes = torch.randint(top, (rows, groups * GROUP_SIZE), generator=generator)
    scales = torch.randn(rows, groups, generator=generator).bfloat16()
    extras = torch.randint(65536, (rows, groups), generator=generator, dtype=torch.int32)
    return codes.to(torch.uint8), scales, extras


def code_in_bytes(group: bytes, name: str, row: int, k: int) -> int:
    """Read one code as docs/quantization.md describes it, byte by byte."""
    half, r = divmod(row, 16)
    if name == "int8":
        q, j = divmod(k, 4)
        return group[128 + 64 * (2 * q + half) + 4 * r + j]
    if name == "int4":
        q, rest = divmod(k, 8)
        high, j = divmod(rest, 4)
        return group[128 + 64 * (2 * q + half) + 4 * r + j] >> (4 * high) & 15
    q, rest = divmod(k, 16)
    i, j = divmod(rest, 4)
    step = 128 + 192 * q
    low = group[step + 64 * half + 4 * r + j] >> (2 * i) & 3
    mask = int.from_bytes(group[step + 128 + 32 * half + 8 * i :][:8], "little")
    return low | (mask >> (4 * r + j) & 1) << 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (31, 2), (32, 3), (33, 1), (100, 5)])
def test_unpacking_gives_back_what_was_packed(name: str, rows: int, groups: int) -> None:
    parts = random_parts(rows, groups, name)
    packed = pack(*parts, name)
    assert tuple(packed.shape) == FORMATS[name].packed_shape(rows, groups * GROUP_SIZE)
    for part, again in zip(
        parts, unpack(packed, name, rows=rows, cols=groups * GROUP_SIZE), strict=True
    ):
        assert part.dtype == again.dtype
        assert torch.equal(part, again)


@pytest.mark.parametrize("name", NAMES)
def test_every_code_scale_and_extra_lies_where_the_page_says(name: str) -> None:
    codes, scales, extras = random_parts(64, 2, name)
    packed = pack(codes, scales, extras, name)
    size = FORMATS[name].group_bytes
    for panel, g in product(range(2), range(2)):
        group = bytes(packed[panel, g * size : (g + 1) * size].tolist())
        for row in range(32):
            n = 32 * panel + row
            word = int.from_bytes(group[4 * row : 4 * row + 4], "little")
            scale = torch.tensor([word >> 16], dtype=torch.int32).to(torch.int16)
            assert scale.view(torch.bfloat16).item() == scales[n, g].item()
            assert word & 0xFFFF == extras[n, g].item()
            read = [code_in_bytes(group, name, row, k) for k in range(GROUP_SIZE)]
            assert read == codes[n, 128 * g : 128 * (g + 1)].tolist()


def example_weight() -> Tensor:
    """The matrix of docs/quantization.md: row 1 is a shuffled ramp, the rest 0."""
    weight = torch.zeros(32, 128)
    weight[1] = ((37 * torch.arange(128)) % 128 - 64) / 1000
    return weight


def test_worked_example_of_int8_is_right() -> None:
    group = quantize(example_weight(), "int8")[0]
    assert group[4:8].tolist() == [0x82, 0xB9, 0x04, 0x3A]
    assert group[132:136].tolist() == [1, 75, 148, 222]
    assert group[260:264].tolist() == [41, 115, 188, 7]
    decoded = dequantize(group[None], "int8", rows=32, cols=128)
    assert decoded[1, 0].item() == (1 - 128) * 0.0005035400390625 - 0.000247955322265625


def test_worked_example_of_int4_is_right() -> None:
    group = quantize(example_weight(), "int4")[0]
    assert group[4:8].tolist() == [0xE3, 0x8E, 0x1C, 0x3A]
    assert group[132:136].tolist() == [0x21, 0x74, 0xC9, 0x1E]
    assert group[260:264].tolist() == [0x74, 0xCA, 0x1E, 0x52]
    decoded = dequantize(group[None], "int4", rows=32, cols=128)
    assert decoded[1, :2].tolist() == [-98 * 0.0005950927734375, -44 * 0.0005950927734375]
    assert not decoded[0].any()


def test_worked_example_of_int3_is_right() -> None:
    group = quantize(example_weight(), "int3")[0]
    assert group[4:8].tolist() == [0x45, 0x10, 0x0D, 0x3A]
    assert group[132:136].tolist() == [228, 158, 57, 147]
    assert [group[256 + 8 * i].item() for i in range(4)] == [0xC0, 0x40, 0x60, 0x20]
    decoded = dequantize(group[None], "int3", rows=32, cols=128)
    assert decoded[1, :2].tolist() == [-109 * 0.000537872314453125, -39 * 0.000537872314453125]


@pytest.mark.parametrize("name", NAMES)
def test_error_on_gaussian_weights_and_bits_per_weight_meet_the_goal(name: str) -> None:
    error, bits = GOALS[name]
    assert FORMATS[name].bits_per_weight <= bits
    assert relative_error(gaussian(512, 1024), name) <= error


@pytest.mark.parametrize("name", NAMES)
def test_quantiser_is_deterministic_and_rows_do_not_depend_on_each_other(name: str) -> None:
    weight = gaussian(96, 200)
    whole = quantize(weight, name)
    assert torch.equal(whole, quantize(weight.clone(), name))
    assert torch.equal(whole[1:2], quantize(weight[32:64], name))
    assert torch.equal(whole, quantize(weight.double(), name))


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_a_large_matrix_equal_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = gaussian(100, 300)
    whole = quantize(weight, name)
    monkeypatch.setattr("mixtral.kernels.low_bit._ROWS_AT_ONCE_ELEMENTS", 1)
    assert torch.equal(whole, quantize(weight, name))


@pytest.mark.parametrize("name", NAMES)
def test_zero_groups_stay_exactly_zero(name: str) -> None:
    weight = gaussian(3, 384)
    weight[1, 128:256] = 0
    packed = quantize(weight, name)
    decoded = dequantize(packed, name, rows=3, cols=384)
    assert not decoded[1, 128:256].any()
    codes, scales, extras = unpack(packed, name, rows=32, cols=384)
    assert (codes[3:] == formats.zero_code(name)).all()
    assert not scales[3:].any()
    assert not extras[3:].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1.0, -0.37, 1e-30, -3e20])
def test_constant_group_is_kept_to_the_precision_of_its_scale(name: str, value: float) -> None:
    weight = torch.full((2, 128), value)
    # A bfloat16 has 8 bits; a grid of 8 entries can use the one that suits best.
    torch.testing.assert_close(
        dequantize(quantize(weight, name), name, rows=2, cols=128), weight, rtol=2**-8, atol=0
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1e20])
def test_error_does_not_depend_on_the_size_of_the_weights(name: str, magnitude: float) -> None:
    weight = gaussian(32, 256)
    assert relative_error(weight * magnitude, name) <= 1.05 * GOALS[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_huge_outlier_costs_only_its_own_group(name: str) -> None:
    weight = gaussian(2, 256)
    before = dequantize(quantize(weight, name), name, rows=2, cols=256)
    weight[1, 5] = 1000
    after = dequantize(quantize(weight, name), name, rows=2, cols=256)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1, 128:], before[1, 128:])
    assert after[1, 5] == pytest.approx(1000, rel=0.01)
    if name != "int8":  # grid 0 has a 0, so the outlier's neighbours are lost, not inflated
        others = after[1, :128][torch.arange(128) // 16 != 0]
        assert not others.any()


@pytest.mark.parametrize("name", NAMES)
def test_denormal_weights_are_quantised_or_zero_but_never_nan(name: str) -> None:
    weight = gaussian(4, 128) * 1e-40
    decoded = dequantize(quantize(weight, name), name, rows=4, cols=128)
    assert decoded.isfinite().all()
    assert (decoded - weight).abs().max() <= 2 * weight.abs().max()


@pytest.mark.parametrize("name", ["int4", "int3"])
def test_scale_search_finds_the_least_error_among_its_candidates(name: str) -> None:
    weight = gaussian(4, 128)
    found = relative_error(weight, name)
    amax = weight.abs().amax(dim=1, keepdim=True)
    entries = torch.tensor(GRIDS[name], dtype=torch.float32)  # [4, codes]
    for factor in formats.SCALE_FACTORS[name]:
        scale = (amax * factor / 127).bfloat16().float()
        distance = weight.view(4, 8, 16, 1, 1) - scale.view(4, 1, 1, 1, 1) * entries
        per_grid = distance.square().amin(dim=-1).sum(dim=2)  # [4, 8, 4]
        plain = per_grid.amin(dim=-1).sum().sqrt() / weight.norm()
        # The search compares whole numbers, so it may miss by the rounding of a weight.
        assert found <= plain * 1.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_weight_that_is_no_number_is_refused_with_its_place(
    name: str, value: float, dtype: torch.dtype
) -> None:
    weight = gaussian(3, 130).to(dtype)
    weight[2, 129] = value
    with pytest.raises(ConfigError, match=r"weight\[2, 129\] is .*; 1 of 390 weights"):
        quantize(weight, name)


@pytest.mark.parametrize(
    "weight", [torch.zeros(4), torch.zeros(0, 8), torch.zeros(2, 2, dtype=torch.int32)]
)
def test_other_things_than_matrices_are_refused(weight: Tensor) -> None:
    with pytest.raises(ConfigError, match="must be a matrix of floats"):
        quantize(weight, "int4")


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="'int5'; it must be one of int8, int4, int3"):
        quantize(torch.zeros(1, 1), "int5")


def test_bytes_of_another_shape_are_refused() -> None:
    packed = quantize(gaussian(40, 128), "int4")
    with pytest.raises(ConfigError, match=r"\[40, 129\] must be torch.uint8 \(2, 4352\)"):
        unpack(packed, "int4", rows=40, cols=129)


def test_codes_without_padding_are_refused() -> None:
    codes, scales, extras = random_parts(2, 1, "int4")
    with pytest.raises(ConfigError, match="Pad K first"):
        pack(codes[:, :100], scales, extras, "int4")


@pytest.mark.parametrize("name", ["int4", "int3"])
def test_grids_are_sorted_bytes_and_the_first_has_a_zero(name: str) -> None:
    assert len(GRIDS[name]) == 4
    assert GRIDS[name][0][formats.zero_code(name)] == 0
    for grid in GRIDS[name]:
        assert len(grid) == 2 ** FORMATS[name].code_bits
        assert list(grid) == sorted(set(grid))
        assert -127 <= grid[0] < grid[-1] <= 127
