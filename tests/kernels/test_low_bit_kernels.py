"""Products with packed and bfloat16 weights in C++, on every level of the instruction set."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mixtral.kernels import formats, low_bit, reference
from mixtral.kernels.cpu import CpuLibrary, load_library
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Weight
from mixtral.kernels.quantize import quantize

LEVELS = ("portable", "avx2", "avx512", "avx512vnni", "avx512bf16")
SHAPES = [(1, 32, 128), (1, 1, 1), (2, 33, 129), (5, 64, 127), (6, 31, 640), (7, 96, 256)]
SHAPES += [(13, 65, 300), (97, 40, 130), (200, 32, 512)]


@pytest.fixture
def library() -> Iterator[CpuLibrary]:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the C++ library is not built here")
    level = loaded.level
    loaded.set_threads(2)
    yield loaded
    loaded.force_level(level)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, library: CpuLibrary) -> str:
    if request.param not in library.usable_levels:
        pytest.skip(f"{request.param} is not among the levels of this CPU")
    library.force_level(request.param)
    return str(request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def describe(packed: Tensor, rows: int, cols: int, name: str) -> Weight:
    return Weight(data=packed.data_ptr(), rows=rows, cols=cols, format=WEIGHT_FORMATS[name])


def int8_states(x: Tensor) -> Tensor:
    """Return what the kernels make of states: 128 channels share one scale, [T, K], float64."""
    tokens, width = x.shape
    groups = functional.pad(x, (0, -width % 128)).view(tokens, -1, 128)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    codes = (groups * (1 / scale)).nan_to_num().round()
    return (codes.double() * scale.double()).view(tokens, -1)[:, :width]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", formats.FORMATS)
def test_products_are_those_of_the_quantised_operands(
    library: CpuLibrary, level: str, name: str, shape: tuple[int, int, int]
) -> None:
    tokens, rows, cols = shape
    x, packed = normal(tokens, cols, seed=1), quantize(normal(rows, cols) * 0.02, name)
    weight = formats.dequantize(packed, name, rows=rows, cols=cols).double()
    out = library.linear(x, describe(packed, rows, cols, name))
    assert relative_error(out, int8_states(x) @ weight.T) < 2e-6


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_level_gives_the_same_bits(library: CpuLibrary, name: str) -> None:
    x, packed = normal(19, 400), quantize(normal(70, 400, seed=1), name)
    outs = []
    for level in library.usable_levels:
        library.force_level(level)
        outs.append(library.linear(x, describe(packed, 70, 400, name)))
    assert all(torch.equal(outs[0], out) for out in outs[1:])


@pytest.mark.parametrize("tokens", [2, 6, 7, 12, 13, 97, 200])
@pytest.mark.parametrize("name", [*formats.FORMATS, "bfloat16"])
def test_token_gets_the_same_bits_in_any_batch_on_any_number_of_threads(
    library: CpuLibrary, level: str, name: str, tokens: int
) -> None:
    x, weight = normal(tokens, 300), normal(70, 300, seed=1)
    stored = weight.bfloat16() if name == "bfloat16" else quantize(weight, name)
    together = library.linear(x, describe(stored, 70, 300, name))
    library.set_threads(1)
    for token in (0, tokens // 2, tokens - 1):
        alone = library.linear(x[token : token + 1], describe(stored, 70, 300, name))
        assert torch.equal(together[token], alone[0])


@pytest.mark.parametrize("name", formats.FORMATS)
def test_int8_states_cost_less_than_a_percent(library: CpuLibrary, name: str) -> None:
    x, packed = normal(64, 4096), quantize(normal(96, 4096, seed=1), name)
    weight = formats.dequantize(packed, name, rows=96, cols=4096)
    error = relative_error(library.linear(x, describe(packed, 96, 4096, name)), x @ weight.T)
    assert 0.004 < error < 0.008


@pytest.mark.parametrize("name", formats.FORMATS)
def test_exact_states_are_good_to_four_digits(library: CpuLibrary, level: str, name: str) -> None:
    x, packed = normal(9, 640), quantize(normal(40, 640, seed=1), name)
    weight = formats.dequantize(packed, name, rows=40, cols=640)
    out = library.linear(x, describe(packed, 40, 640, name), exact=True)
    assert relative_error(out, x.double() @ weight.double().T) < 1e-4


def test_outlier_channel_ruins_plain_int8_states_and_takes_the_safe_path(
    library: CpuLibrary, level: str
) -> None:
    x, packed = normal(3, 4096), quantize(normal(64, 4096, seed=1), "int4")
    x[:, 700] = 60.0
    x[1] = normal(1, 4096, seed=2)  # a token without one, between them
    weight = formats.dequantize(packed, "int4", rows=64, cols=4096).double()
    exact = x.double() @ weight.T
    plain = int8_states(x) @ weight.T
    out = library.linear(x, describe(packed, 64, 4096, "int4"))
    for token in (0, 2):
        assert relative_error(plain[token], exact[token]) > 0.01
        # Only the group of the outlier is refined, to 16 bits; the others keep their 8.
        assert relative_error(out[token], exact[token]) < 0.006
    assert relative_error(out[1], plain[1]) < 2e-6


def test_zero_states_give_zeros(library: CpuLibrary, level: str) -> None:
    for name in formats.FORMATS:
        packed = quantize(normal(40, 200), name)
        out = library.linear(torch.zeros(3, 200), describe(packed, 40, 200, name))
        assert torch.equal(out, torch.zeros(3, 40))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-37, 5e-37])
def test_group_of_tiny_states_adds_nothing(
    library: CpuLibrary, level: str, size: float, exact: bool
) -> None:
    """127 / size is infinite below 3.73e-37."""
    x, packed = normal(3, 256), quantize(normal(40, 256, seed=1), "int4")
    x[1, :128] = size * normal(128, seed=2)
    weight = describe(packed, 40, 256, "int4")
    without = x.clone()
    without[1, :128] = 0.0
    out = library.linear(x, weight, exact=exact)
    assert torch.equal(out, library.linear(without, weight, exact=exact))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [*formats.FORMATS, "bfloat16"])
def test_state_that_is_no_number_spoils_its_token_and_no_other(
    library: CpuLibrary, level: str, name: str, value: float
) -> None:
    x, weight = normal(9, 300), normal(70, 300, seed=1)
    stored = weight.bfloat16() if name == "bfloat16" else quantize(weight, name)
    described = describe(stored, 70, 300, name)
    for exact in (False, True):
        whole = library.linear(x, described, exact=exact)
        for channel in (0, 131, 299):
            spoiled = x.clone()
            spoiled[4, channel] = value
            out = library.linear(spoiled, described, exact=exact)
            assert not out[4].isfinite().any()
            assert torch.equal(out[:4], whole[:4])
            assert torch.equal(out[5:], whole[5:])


@pytest.mark.parametrize("shape", [(1, 4, 32), (2, 5, 31), (3, 33, 65), (7, 32, 2049)])
def test_bfloat16_products_equal_float64_ones(
    library: CpuLibrary, level: str, shape: tuple[int, int, int]
) -> None:
    tokens, rows, cols = shape
    x, weight = normal(tokens, cols).bfloat16(), normal(rows, cols, seed=1).bfloat16()
    out = library.linear(x.float(), describe(weight, rows, cols, "bfloat16"))
    exact = x.double() @ weight.double().T
    assert ((out - exact).abs() <= 1e-4 * cols**0.5).all()


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (33, 129), (64, 640), (5, 1000)])
def test_quantiser_gives_the_bytes_of_the_specification(
    library: CpuLibrary, name: str, shape: tuple[int, int]
) -> None:
    for seed, scale in enumerate((0.02, 1e-30, 1e-39, 3e4)):
        weight = normal(*shape, seed=seed) * scale
        weight[0, ::3] = 0.0
        weight[-1] = weight[-1, 0]  # a constant row
        assert torch.equal(library.quantize(weight, name), low_bit.quantize(weight, name))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_quantiser_stays_in_its_tables_whatever_it_is_given(
    library: CpuLibrary, name: str, value: float
) -> None:
    weight = normal(33, 130)
    rows = formats.dequantize(library.quantize(weight, name), name, rows=33, cols=130)
    weight[7, 5] = value
    spoiled = formats.dequantize(library.quantize(weight, name), name, rows=33, cols=130)
    others = torch.arange(33) != 7
    assert torch.equal(spoiled[others], rows[others])


def test_library_computes_after_a_fork(library: CpuLibrary) -> None:
    x, packed = normal(4, 512), quantize(normal(512, 512, seed=1), "int4")
    weight = describe(packed, 512, 512, "int4")
    before = library.linear(x, weight)  # the threads of the parent exist now
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(library.linear(x, weight), before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_calls_from_several_threads_take_turns(library: CpuLibrary) -> None:
    packed = quantize(normal(256, 384, seed=1), "int3")
    weight = describe(packed, 256, 384, "int3")
    states = [normal(9, 384, seed=seed) for seed in range(24)]
    expected = [library.linear(x, weight) for x in states]
    with ThreadPoolExecutor(max_workers=4) as threads:
        found = list(threads.map(lambda x: library.linear(x, weight), states))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_probes_give_plausible_speeds(library: CpuLibrary) -> None:
    assert 1e8 < library.read_probe(torch.ones(1 << 24, dtype=torch.uint8)) < 1e13
    assert 0 <= library.int8_peak_probe(steps=1000) < 1e16


def test_inner_loops_keep_their_sums_in_registers(library: CpuLibrary) -> None:
    """A spilled accumulator halves the speed, and nothing else would tell."""
    if library.usable_levels[-1] != "avx512bf16" or not shutil.which("objdump"):
        pytest.skip("needs a machine with AVX-512 and objdump")
    command = ["objdump", "-d", "--no-show-raw-insn", str(library.path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = listing.splitlines()
    products = [i for i, line in enumerate(lines) if "vpdpbusd" in line]
    assert len(products) > 500  # three formats, tiles of 1 to 6 tokens, two levels
    # Products of one weight stand at most a few instructions apart. Selectors, which change once in
    # 64 products, may lie on the stack; a spilled sum would be there for every product.
    spilled = [
        line
        for here, after in itertools.pairwise(products)
        if after - here <= 8
        for line in lines[here + 1 : after]
        if re.search(r"zmm.*\(%r[sb]p|\(%r[sb]p.*zmm", line)
    ]
    assert 100 * len(spilled) < len(products)


ROUTES = {
    "one token": lambda: torch.tensor([[2, 0]]),
    "an expert without tokens": lambda: torch.tensor([[0, 1], [1, 3], [3, 0], [0, 3], [1, 0]]),
    "all tokens on one expert": lambda: torch.tensor([[3], [3], [3], [3], [3], [3], [3]]),
    "200 tokens": lambda: normal(200, 4).topk(2, dim=-1).indices,
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", [*formats.FORMATS, "bfloat16"])
def test_experts_give_what_the_reference_gives(
    library: CpuLibrary, level: str, name: str, route: str
) -> None:
    """hidden 200 and 136 columns of experts: neither is a whole number of groups or panels."""
    expert_ids = ROUTES[route]()
    tokens, width, columns = len(expert_ids), 200, 136
    x = normal(tokens, width, seed=5).bfloat16().float()
    weights = normal(*expert_ids.shape, seed=6).softmax(-1)
    kept, described, plain = [], [], []
    for expert in range(4):
        own = []
        for place, (rows, cols) in enumerate(
            ((columns, width), (width, columns), (columns, width))
        ):
            weight = normal(rows, cols, seed=10 * expert + place) * 0.1
            stored = weight.bfloat16() if name == "bfloat16" else quantize(weight, name)
            kept.append(stored)
            own.append(describe(stored, rows, cols, name))
            if name != "bfloat16":
                weight = formats.dequantize(stored, name, rows=rows, cols=cols)
            plain.append(stored.float() if name == "bfloat16" else weight)
        described.append((own[0], own[1], own[2]))
    out = library.moe(x, weights, expert_ids, described, exact=True)
    expected = torch.zeros(tokens, width)
    for token in range(tokens):
        for weight, expert in zip(weights[token], expert_ids[token].tolist(), strict=True):
            w1, w2, w3 = plain[3 * expert : 3 * expert + 3]
            expected[token] += weight * reference.swiglu(x[token : token + 1], w1, w2, w3)[0]
    # bfloat16 rounds the hidden states, 8 bits; the others have about 16.
    assert relative_error(out, expected) < (5e-3 if name == "bfloat16" else 2e-4)
    alone = library.moe(x[:1], weights[:1], expert_ids[:1].contiguous(), described, exact=True)
    assert torch.equal(alone[0], out[0])
