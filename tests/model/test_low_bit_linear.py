"""Training over packed weights: products, gradients, whole models, and what is served."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.kernels import formats, low_bit_grad
from mixtral.kernels.cpu import CpuLibrary, load_library
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Weight
from mixtral.kernels.quantize import quantize
from mixtral.loading import unpacked_tensors
from mixtral.model import CpuTransformer, TokenBatch, Transformer, init_weights
from mixtral.model.lora import LoraLinear, LoraSpec, add_lora
from mixtral.model.low_bit_linear import LowBitLinear
from mixtral.model.low_bit_transformer import low_bit_transformer
from mixtral.quantization import RECIPES
from tests.models_for_tests import tiny_config

SHAPES = [(1, 1), (33, 129), (96, 256), (70, 300)]
IDS = list(range(3, 480, 7))


@pytest.fixture
def library() -> Iterator[CpuLibrary]:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the C++ library is not built here")
    level = loaded.level
    yield loaded
    loaded.force_level(level)


@pytest.fixture(params=["C++", "PyTorch"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setattr(low_bit_grad, "load_library", lambda: None)
    elif load_library() is None:
        pytest.skip("the C++ library is not built here")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_pair(rows: int, cols: int, name: str) -> tuple[LowBitLinear, Tensor]:
    """Return a packed linear and the weight that it stands for."""
    packed = quantize(normal(rows, cols) * 0.1, name)
    linear = LowBitLinear(packed, in_features=cols, out_features=rows)
    return linear, formats.dequantize(packed, name, rows=rows, cols=cols)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).norm() / expected.norm()).detach())


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", formats.FORMATS)
def test_product_and_gradient_are_those_of_the_decoded_weight(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, cols = shape
    monkeypatch.setattr(low_bit_grad, "_TILE_WEIGHTS", 32 * cols)  # a tile of one panel
    linear, weight = linear_pair(rows, cols, name)
    states = normal(5, cols, seed=1)
    ours, plain = states.clone().requires_grad_(), states.clone().requires_grad_()
    out, expected = linear(ours), functional.linear(plain, weight)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    outer = normal(5, rows, seed=2)
    out.backward(outer)
    expected.backward(outer)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_level_decodes_the_values_of_the_specification(
    library: CpuLibrary, name: str
) -> None:
    for level in library.usable_levels:
        library.force_level(level)
        for rows, cols in SHAPES:
            linear, weight = linear_pair(rows, cols, name)
            assert torch.equal(linear.dequantize(), weight)


def test_library_refuses_bytes_of_another_shape(library: CpuLibrary) -> None:
    packed = quantize(normal(40, 200), "int4")
    with pytest.raises(ValueError, match=r"int4 of \[40, 300\] must be torch.uint8 \[2, 6528\]"):
        library.dequantize(packed, "int4", torch.empty(40, 300))
    with pytest.raises(ValueError, match=r"out is torch.bfloat16"):
        library.dequantize(packed, "int4", torch.empty(40, 200, dtype=torch.bfloat16))


def test_training_leaves_the_bytes_alone() -> None:
    linear, _ = linear_pair(70, 300, "int4")
    before = linear.packed.clone()
    x = normal(4, 300).requires_grad_()
    linear(x).square().sum().backward()
    assert torch.equal(linear.packed, before)
    assert list(linear.parameters()) == []
    assert set(linear.state_dict()) == {"packed"}


def test_no_more_than_16_megabytes_are_decoded_at_a_time() -> None:
    rows, cols = 4096, 3000
    packed = torch.zeros(formats.FORMATS["int3"].packed_shape(rows, cols), dtype=torch.uint8)
    tiles = low_bit_grad._tiles(packed, "int3", rows=rows, cols=cols, dtype=torch.float32)
    sizes = [(begin, len(tile), tile.nbytes) for begin, tile in tiles]
    assert max(size for _, _, size in sizes) <= 1 << 24
    ends = [begin + count for begin, count, _ in sizes]
    assert [0, *ends[:-1]] == [begin for begin, _, _ in sizes]
    assert ends[-1] == rows
    assert len(sizes) > 1


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
def test_bfloat16_states_keep_their_type_and_eight_bits(
    product: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_bit_grad, "_product_dtype", lambda x: product)
    monkeypatch.setattr(low_bit_grad, "_TILE_WEIGHTS", 32 * 256)  # a tile of one panel
    linear, weight = linear_pair(96, 256, "int4")
    x = normal(7, 256, seed=1).bfloat16().requires_grad_()
    out = linear(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), x.float() @ weight.T) < 5e-3
    outer = normal(7, 96, seed=2).bfloat16()
    out.backward(outer)
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert relative_error(x.grad.float(), outer.float() @ weight) < 5e-3


def test_no_tokens_give_no_rows() -> None:
    linear, _ = linear_pair(40, 130, "int8")
    x = torch.empty(0, 130, requires_grad=True)
    out = linear(x)
    assert out.shape == (0, 40)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 130)


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-4), (False, 8e-3)])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_products_are_those_that_are_served(
    library: CpuLibrary, name: str, exact: bool, tolerance: float
) -> None:
    linear, _ = linear_pair(96, 1024, name)
    x = normal(64, 1024, seed=1)
    served = Weight(data=linear.packed.data_ptr(), rows=96, cols=1024, format=WEIGHT_FORMATS[name])
    assert relative_error(linear(x), library.linear(x, served, exact=exact)) < tolerance


def test_wrong_shapes_are_named() -> None:
    packed = quantize(normal(40, 200), "int4")
    with pytest.raises(ConfigError, match=r"no low-bit format of \[40, 300\] has this shape"):
        LowBitLinear(packed, in_features=300, out_features=40)
    linear = LowBitLinear(packed, in_features=200, out_features=40)
    with pytest.raises(ValueError, match=r"x has shape \[3, 100\]; it must be \[T, 200\]"):
        linear(normal(3, 100))


GEOMETRIES = {
    "experts": tiny_config(),
    "odd widths": tiny_config(num_local_experts=8, hidden_size=72, intermediate_size=200),
    "dense": tiny_config(num_local_experts=0, num_experts_per_tok=0),
    "tied head": tiny_config(tie_word_embeddings=True),
}


def packed_weights(config: ModelConfig, recipe: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    made = Transformer(config)
    # Small weights: their routers decide clearly, so that rounding changes no expert.
    init_weights(made, seed=0, std=0.05)
    stored = ((name, value.bfloat16()) for name, value in made.state_dict().items())
    packed = dict(quantized_tensors(stored, config, RECIPES[recipe]))
    return packed_config(config), packed


def model_pair(config: ModelConfig, recipe: str) -> tuple[Transformer, Transformer]:
    """Return the model over packed weights and the one over what they stand for, float32."""
    config, packed = packed_weights(config, recipe)
    plain = Transformer(config)
    for path, module in plain.named_modules():
        stored = packed.get(f"{path}.packed")
        if isinstance(module, nn.Linear) and stored is not None:
            rows, cols = module.weight.shape
            name = formats.format_of_packed(stored, rows=rows, cols=cols)
            decoded = formats.dequantize(stored, name, rows=rows, cols=cols)
            module.weight = nn.Parameter(decoded)
        elif f"{path}.weight" in packed:
            module.weight = nn.Parameter(packed[f"{path}.weight"].float())
    return low_bit_transformer(config, packed.items(), torch.float32), plain


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_model_gives_the_logits_of_its_decoded_weights(geometry: str, recipe: str) -> None:
    low_bit, plain = model_pair(GEOMETRIES[geometry], recipe)
    logits, expected = low_bit.whole_logits(IDS), plain.whole_logits(IDS)
    assert relative_error(logits, expected) < 1e-5
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_adapters_get_the_gradients_that_they_get_over_decoded_weights() -> None:
    low_bit, plain = model_pair(tiny_config(), "int4")
    paths = [
        path
        for path, module in plain.named_modules()
        if isinstance(module, nn.Linear) and path != "lm_head"
    ]
    assert any(path.endswith("experts.3.w2") for path in paths)
    gradients = []
    for model in (low_bit, plain):
        add_lora(model, dict.fromkeys(paths, LoraSpec(rank=4, scale=2.0)), seed=1)
        for index, module in enumerate(m for m in model.modules() if isinstance(m, LoraLinear)):
            # Zeros, where training begins, would leave A without a gradient.
            module.lora_b.data = 0.1 * normal(*module.lora_b.shape, seed=index)
        hidden = model(TokenBatch.from_sequences([IDS[:40], IDS[40:]]))
        functional.cross_entropy(model.logits(hidden[:-1]), torch.tensor(IDS[1:])).backward()
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in learning.values())
        gradients.append({name: p.grad for name, p in learning.items()})
    ours, expected = gradients
    assert ours.keys() == expected.keys()
    assert len(ours) == 2 * len(paths)
    for name, gradient in expected.items():
        assert gradient is not None
        assert gradient.norm() > 0
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 2e-3), (False, 1.5e-2)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_are_those_that_are_served(
    library: CpuLibrary, recipe: str, exact: bool, tolerance: float
) -> None:
    config, packed = packed_weights(tiny_config(), recipe)
    trained = low_bit_transformer(config, packed.items(), torch.float32).whole_logits(IDS)
    served = CpuTransformer(config, packed.items(), exact=exact).whole_logits(IDS)
    errors = (served - trained).norm(dim=1) / trained.norm(dim=1)
    # A token whose router hesitates may visit another expert; few do.
    assert float(errors.median()) < tolerance
    assert float((errors < 2 * tolerance).float().mean()) > 0.9


def test_bfloat16_model_agrees_with_the_unpacked_one() -> None:
    config, packed = packed_weights(tiny_config(), "int4")
    low_bit = low_bit_transformer(config, packed.items(), torch.bfloat16)
    assert low_bit.dtype == torch.bfloat16
    unpacked = Transformer.from_tensors(config, unpacked_tensors(packed.items(), config))
    logits, expected = low_bit.whole_logits(IDS), unpacked.whole_logits(IDS)
    errors = (logits - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(errors.median()) < 1e-2


def test_model_holds_the_very_bytes_that_it_was_given() -> None:
    config, packed = packed_weights(tiny_config(), "int4")
    model = low_bit_transformer(config, packed.items(), torch.float32)
    held = dict(model.named_buffers())
    names = {name for name in packed if name.endswith(".packed")} - {"lm_head.packed"}
    assert held.keys() == names
    assert all(held[name].data_ptr() == packed[name].data_ptr() for name in names)
    embedding = model.model.embed_tokens.weight
    assert embedding.data_ptr() == packed["model.embed_tokens.weight"].data_ptr()
    assert not any(p.requires_grad for p in model.parameters())


def test_tensors_that_do_not_fit_are_named() -> None:
    config, packed = packed_weights(tiny_config(), "int4")
    gate, norm = "model.layers.0.block_sparse_moe.gate", "model.norm.weight"
    query = "model.layers.0.self_attn.q_proj.packed"

    def build(changes: dict[str, Tensor], without: str = "") -> None:
        tensors = {name: t for name, t in packed.items() if name != without}
        low_bit_transformer(config, (tensors | changes).items(), torch.float32)

    with pytest.raises(CheckpointError, match=r"1 tensors are missing, for one model\.norm"):
        build({}, without=norm)
    with pytest.raises(CheckpointError, match=r"tensor model.extra.weight is not part"):
        build({"model.extra.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not part of this model, or"):
        build({"lm_head.weight": torch.ones(512, 64)})
    with pytest.raises(CheckpointError, match=r"model.norm.weight has shape \(3,\); expected"):
        build({norm: torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"q_proj.packed: packed matrix is torch.uint8"):
        build({query: packed[query][:1]})
    with pytest.raises(CheckpointError, match="gate is packed; only attention, experts and head"):
        build({f"{gate}.packed": torch.zeros(1, 2176)}, without=f"{gate}.weight")
