"""Matrix products: the C++ kernel against float64, and its promise that batches change nothing."""

import pytest
import torch
from torch.nn import functional

from mixtral.kernels.cpu import CpuLibrary, load_library
from mixtral.kernels.linear import linear

SHAPES = [
    (1, 1, 1),
    (1, 4, 32),
    (2, 5, 31),
    (3, 33, 65),
    (6, 64, 2048),
    (7, 32, 2049),
    (13, 130, 4100),
    (200, 37, 96),
]


@pytest.fixture
def library() -> CpuLibrary:
    loaded = load_library()
    if loaded is None or not loaded.has_linear_bf16:
        pytest.skip("this CPU, or the level in use, has no bfloat16 instructions")
    loaded.share_threads()
    return loaded


def operands(tokens: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens + rows + cols)
    x = torch.randn(tokens, cols, generator=generator).bfloat16()
    return x, torch.randn(rows, cols, generator=generator).bfloat16()


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_equals_float64_up_to_one_rounding(
    library: CpuLibrary, shape: tuple[int, int, int]
) -> None:
    x, weight = operands(*shape)
    exact = x.double() @ weight.double().T
    out = library.linear_bf16(x, weight, 2)
    # float32 sums of up to 4,100 products, then half a unit of bfloat16's last place.
    bound = 2**-8 * exact.abs() + 1e-4 * shape[2] ** 0.5
    assert ((out.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("tokens", [2, 6, 7, 16, 17, 200])
def test_token_gets_the_same_bits_in_any_batch_on_any_number_of_threads(
    library: CpuLibrary, tokens: int
) -> None:
    x, weight = operands(tokens, 70, 2500)
    together = library.linear_bf16(x, weight, 2)
    alone = torch.cat([library.linear_bf16(x[t : t + 1], weight, 1) for t in range(tokens)])
    assert torch.equal(together, alone)


def test_kernel_keeps_infinities_and_nans(library: CpuLibrary) -> None:
    x, weight = operands(2, 8, 40)
    x[0, 3], x[1, 5] = float("inf"), float("nan")
    out = library.linear_bf16(x, weight, 1)
    assert torch.isinf(out[0]).all()
    assert torch.isnan(out[1]).all()


def test_kernel_reads_weights_at_any_address(library: CpuLibrary) -> None:
    x, weight = operands(3, 9, 100)
    buffer = torch.zeros(901, dtype=torch.bfloat16)
    shifted = buffer[1:].view(9, 100).copy_(weight)
    assert torch.equal(library.linear_bf16(x, shifted, 1), library.linear_bf16(x, weight, 1))


def test_level_without_bfloat16_instructions_says_so(library: CpuLibrary) -> None:
    from mixtral.errors import UnsupportedError

    level = library.level
    library.force_level("portable")
    try:
        x, weight = operands(1, 4, 32)
        with pytest.raises(UnsupportedError, match="level portable has no bfloat16"):
            library.linear_bf16(x, weight, 1)
    finally:
        library.force_level(level)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (40, 48)])
def test_linear_equals_torch_for_every_shape_and_dtype(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(20, 48, generator=generator).to(dtype)
    expected = functional.linear(x, weight)
    torch.testing.assert_close(linear(x, weight), expected, rtol=2e-2, atol=2e-2)


def test_linear_keeps_gradients() -> None:
    x = torch.randn(3, 16).bfloat16().requires_grad_()
    weight = torch.randn(4, 16).bfloat16().requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None


@pytest.mark.parametrize("width", [16, 64])
def test_linear_refuses_a_weight_of_another_width(width: int) -> None:
    x, weight = torch.zeros(2, 32).bfloat16(), torch.zeros(4, width).bfloat16()
    with pytest.raises(RuntimeError, match="shape"):
        linear(x, weight)


def test_linear_takes_views_with_gaps() -> None:
    x = torch.randn(3, 32).bfloat16()[:, ::2]
    weight = torch.randn(16, 4).bfloat16().T
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
