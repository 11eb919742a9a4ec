"""The fast operations against the plain specification."""

import pytest
import torch
from torch.nn import functional

from mixtral.kernels import grouped, packed_attention, reference
from mixtral.kernels.cpu import load_library

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.float().abs().max()
    error = (actual.float() - expected.float()).abs().max() / scale
    assert error <= TOLERANCE[expected.dtype], f"relative error {error}"


def random_experts(
    num_experts: int, hidden: int, ffn: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    def make(*shape: int) -> list[torch.Tensor]:
        return [
            (torch.randn(*shape, generator=generator) * 0.2).to(dtype) for _ in range(num_experts)
        ]

    return make(ffn, hidden), make(hidden, ffn), make(ffn, hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "experts", "chosen"), [(1, 8, 2), (7, 4, 2), (33, 6, 1), (16, 3, 3)]
)
def test_grouped_moe_equals_token_by_token_formula(
    dtype: torch.dtype, tokens: int, experts: int, chosen: int
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 24, generator=generator).to(dtype)
    gate = torch.randn(experts, 24, generator=generator).to(dtype)
    w1, w2, w3 = random_experts(experts, 24, 40, dtype, generator)
    weights, ids = grouped.route(x.float() @ gate.float().T, chosen)
    expected = reference.moe(x, gate, w1, w2, w3, chosen)
    assert_close(grouped.moe(x, weights, ids, w1, w2, w3), expected)


def test_grouped_moe_is_right_when_all_tokens_choose_one_pair_of_experts() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 16, generator=generator)
    w1, w2, w3 = random_experts(8, 16, 32, torch.float32, generator)
    ids = torch.tensor([[5, 2]] * 9)
    weights = torch.tensor([[0.75, 0.25]] * 9)
    expected = 0.75 * reference.swiglu(x, w1[5], w2[5], w3[5])
    expected += 0.25 * reference.swiglu(x, w1[2], w2[2], w3[2])
    assert_close(grouped.moe(x, weights, ids, w1, w2, w3), expected)


def test_experts_nobody_chose_are_never_read() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, generator=generator)
    w1, w2, w3 = random_experts(3, 16, 32, torch.float32, generator)
    w1[1] = torch.full_like(w1[1], float("nan"))
    ids = torch.tensor([[0, 2]] * 4)
    weights = torch.full((4, 2), 0.5)
    assert torch.isfinite(grouped.moe(x, weights, ids, w1, w2, w3)).all()


@pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="torch has no grouped_mm")
def test_stacked_moe_equals_grouped_moe() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(11, 32, generator=generator).bfloat16()
    w1, w2, w3 = random_experts(8, 32, 48, torch.bfloat16, generator)
    weights, ids = grouped.route(torch.randn(11, 8, generator=generator), 2)
    expected = grouped.moe(x, weights, ids, w1, w2, w3)
    stacked = grouped.moe_stacked(
        x, weights, ids, torch.stack(w1), torch.stack(w2), torch.stack(w3)
    )
    assert_close(stacked, expected)


def test_moe_gradients_pass_gradcheck_in_float64_with_an_idle_expert() -> None:
    generator = torch.Generator().manual_seed(4)
    w1, w2, w3 = (
        [w.double().requires_grad_() for w in ws]
        for ws in random_experts(3, 4, 5, torch.float32, generator)
    )
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[2, 0], [0, 2], [2, 0], [2, 0], [0, 2], [0, 2]])

    def run(x: torch.Tensor, weights: torch.Tensor, *busy: torch.Tensor) -> torch.Tensor:
        first, idle, last = busy[:3], (w1[1], w2[1], w3[1]), busy[3:]
        return grouped.moe(x, weights, ids, *zip(first, idle, last, strict=True))

    busy = [w[0] for w in (w1, w2, w3)] + [w[2] for w in (w1, w2, w3)]
    assert torch.autograd.gradcheck(run, (x, weights, *busy))


@pytest.mark.parametrize("frozen", ["experts", "states"])
def test_moe_makes_no_gradient_for_what_is_idle_or_frozen(frozen: str) -> None:
    generator = torch.Generator().manual_seed(5)
    w1, w2, w3 = random_experts(4, 8, 6, torch.float32, generator)
    x = torch.randn(5, 8, generator=generator, requires_grad=frozen != "states")
    weights = torch.rand(5, 2, generator=generator, requires_grad=True)
    for weight in (*w1, *w2, *w3):
        weight.requires_grad_(frozen != "experts")
    ids = torch.tensor([[0, 3]] * 5)
    grouped.moe(x, weights, ids, w1, w2, w3).sum().backward()
    assert (x.grad is None) == (frozen == "states")
    assert weights.grad is not None
    for expert in range(4):
        has_grad = expert in (0, 3) and frozen != "experts"
        assert [w[expert].grad is not None for w in (w1, w2, w3)] == [has_grad] * 3


def test_moe_gives_the_same_with_and_without_gradients() -> None:
    generator = torch.Generator().manual_seed(6)
    w1, w2, w3 = random_experts(6, 24, 40, torch.float32, generator)
    x = torch.randn(31, 24, generator=generator, requires_grad=True)
    weights, ids = grouped.route(torch.randn(31, 6, generator=generator), 3)
    trained = grouped.moe(x, weights, ids, w1, w2, w3)
    with torch.no_grad():
        assert_close(trained, grouped.moe(x, weights, ids, w1, w2, w3))


def test_routing_weights_equal_renormalised_softmax_over_all_experts() -> None:
    logits = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    weights, ids = reference.route(logits, 2)
    probabilities = logits.softmax(dim=-1).gather(1, ids)
    torch.testing.assert_close(weights, probabilities / probabilities.sum(-1, keepdim=True))


@pytest.mark.parametrize("chosen", [0, 9])
def test_route_refuses_more_experts_than_there_are(chosen: int) -> None:
    with pytest.raises(ValueError, match=f"num_experts_per_tok is {chosen}; .* 1 to 8"):
        reference.route(torch.zeros(1, 8), chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("lengths", [(1,), (9,), (6, 6, 6), (3, 11, 1)])
def test_fused_attention_equals_plain_formula(
    dtype: torch.dtype, groups: int, window: int | None, lengths: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    q = torch.randn(tokens, 4, 16, generator=generator).to(dtype)
    k, v = torch.randn(2, tokens, groups, 16, generator=generator).to(dtype)
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    expected = reference.attention(q, k, v, starts, window)
    assert_close(grouped.attention(q, k, v, starts, window), expected)


def with_gradients(
    inputs: list[torch.Tensor], out_grad: torch.Tensor, starts: list[int], window: int | None
) -> list[torch.Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = grouped.attention(*leaves, starts, window)
    out.backward(out_grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


# 48 queries and 96 keys are the C++ kernel's blocks: lengths on both sides of them and of two.
@pytest.mark.parametrize("window", [None, 1, 33])
@pytest.mark.parametrize("lengths", [(1,), (48, 49), (3, 11, 1, 100), (193,)])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 16), (3, 1, 20), (2, 2, 64)])
def test_attention_gradients_in_float32_equal_those_in_float64(
    heads: int, groups: int, width: int, lengths: tuple[int, ...], window: int | None
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    inputs = [torch.randn(tokens, n, width, generator=generator) for n in (heads, groups, groups)]
    out_grad = torch.randn(tokens, heads, width, generator=generator)
    narrow = with_gradients(inputs, out_grad, starts, window)
    wide = with_gradients([t.double() for t in inputs], out_grad.double(), starts, window)
    for actual, expected in zip(narrow, wide, strict=True):
        # Where a query sees itself alone, gradients of query and key are 0.
        assert (actual - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_attention_of_a_sequence_does_not_depend_on_its_company_or_the_threads() -> None:
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(150, n, 16, generator=generator) for n in (4, 2, 2)]
    if not packed_attention.fits(*inputs):
        pytest.skip("the C++ library is not built")
    out_grad = torch.randn(150, 4, 16, generator=generator)
    together = with_gradients(inputs, out_grad, [0, 30, 130, 150], None)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        alone = with_gradients([t[30:130] for t in inputs], out_grad[30:130], [0, 100], None)
    finally:
        torch.set_num_threads(threads)
    for one, all_of_them in zip(alone, together, strict=True):
        assert torch.equal(one, all_of_them[30:130])


def test_pytorch_s_default_type_does_not_change_the_attention() -> None:
    generator = torch.Generator().manual_seed(8)
    inputs = [torch.randn(150, n, 16, generator=generator) for n in (4, 2, 2)]
    out_grad = torch.randn(150, 4, 16, generator=generator)
    wanted = with_gradients(inputs, out_grad, [0, 150], None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = with_gradients(inputs, out_grad, [0, 150], None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_number_that_is_none_spoils_the_attention_of_who_sees_it(place: int) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(150, n, 16, generator=generator) for n in (4, 2, 2)]
    library = load_library()
    if library is None:
        pytest.skip("the C++ library is not built")
    before = library.level
    inputs[place][40, 1, 5] = float("nan")
    try:
        for level in library.usable_levels:
            library.force_level(level)
            out = grouped.attention(*inputs, [0, 30, 150], None)
            is_spoilt = out.isnan().any(dim=-1)  # [T, H]
            assert is_spoilt[40, 1] if place == 0 else is_spoilt[40:, 2:].all()
            assert not is_spoilt[:30].any()
    finally:
        library.force_level(before)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("num_new", [1, 3, 12])
def test_cached_attention_equals_last_rows_of_whole_attention(
    window: int | None, num_new: int
) -> None:
    generator = torch.Generator().manual_seed(num_new)
    q = torch.randn(12, 4, 16, generator=generator)
    k, v = torch.randn(2, 12, 2, 16, generator=generator)
    expected = reference.attention(q, k, v, [0, 12], window)[-num_new:]
    assert_close(grouped.cached_attention(q[-num_new:], k, v, window), expected)


@pytest.mark.parametrize("window", [None, 4])
def test_padded_decode_attention_equals_one_call_per_sequence(window: int | None) -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([9, 2, 6])
    q = torch.randn(3, 4, 16, generator=generator)
    k, v = torch.randn(2, 3, 10, 2, 16, generator=generator)
    out = grouped.padded_decode_attention(q, k, v, lengths, window)
    for i, length in enumerate(lengths.tolist()):
        expected = grouped.cached_attention(q[i : i + 1], k[i, :length], v[i, :length], window)
        assert_close(out[i : i + 1], expected)


def test_rotary_keeps_scores_that_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 32, generator=generator)
    scores = []
    for shift in (0, 7, 1000):
        positions = torch.tensor([5 + shift, 2 + shift])
        cos, sin = reference.rotary_tables(positions, 32, 1e6)
        turned_q = reference.apply_rotary(q[None], cos[:1], sin[:1])
        turned_k = reference.apply_rotary(k[None], cos[1:], sin[1:])
        scores.append(float((turned_q * turned_k).sum()))
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-3)


def test_rms_norm_gives_unit_mean_square() -> None:
    x = 50 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    normed = reference.rms_norm(x, torch.ones(64), 1e-6)
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(4), atol=1e-4, rtol=0)
