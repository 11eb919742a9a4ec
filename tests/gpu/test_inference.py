"""What a device computes is what plain PyTorch computes on the CPU in float32."""

from pathlib import Path

import pytest
import torch

from mixtral import LLM, SamplingParams
from mixtral.checkpoint import quantize_checkpoint
from mixtral.quantization import find_recipe
from tests.checkpoints_for_tests import write_random
from tests.models_for_tests import tiny_config

CONFIG = tiny_config(vocab_size=32768, num_local_experts=8, max_position_embeddings=512)
PROMPTS = [[1, 50, 60], [1, *range(100, 180)], [1], [1, 7, 7, 7, 7, 7, 7, 7]]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
# Length of the difference of a token's logits, over theirs.
TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random("hf", folder, CONFIG, seed=0)
    return folder


@pytest.fixture(scope="module")
def token_ids() -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, CONFIG.vocab_size, (300,), generator=generator).tolist()


def open_model(folder: Path, **options: object) -> LLM:
    return LLM(folder, max_model_len=512, **options)  # type: ignore[arg-type]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the median over tokens; a few may go to another expert where two are nearly tied."""
    return float(((one.cpu() - other).norm(dim=-1) / other.norm(dim=-1)).median())


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_logits_are_those_of_float32_on_the_cpu(
    folder: Path, token_ids: list[int], device: str, dtype: str
) -> None:
    expected = open_model(folder, dtype="float32", device="cpu").logits(token_ids)
    logits = open_model(folder, dtype=dtype, device=device).logits(token_ids)
    assert difference(logits, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("recipe", ["int8", "int4", "int3"])
def test_packed_weights_give_the_logits_of_what_they_stand_for(
    folder: Path, token_ids: list[int], device: str, recipe: str, tmp_path: Path
) -> None:
    quantize_checkpoint(folder, tmp_path / "packed", find_recipe(recipe))
    expected = open_model(tmp_path / "packed", device="cpu", exact_activations=True)
    packed = open_model(tmp_path / "packed", device=device)
    assert difference(packed.logits(token_ids), expected.logits(token_ids)) < 5e-2


def test_greedy_tokens_are_those_of_the_cpu_alone_and_in_a_batch(folder: Path, device: str) -> None:
    reference = open_model(folder, dtype="float32", device="cpu")
    expected = [completion.token_ids for completion in reference.generate(PROMPTS, GREEDY)]
    llm = open_model(folder, dtype="float32", device=device)
    assert [completion.token_ids for completion in llm.generate(PROMPTS, GREEDY)] == expected
    assert [llm.generate([ids], GREEDY)[0].token_ids for ids in PROMPTS] == expected


def test_bfloat16_batch_of_long_and_short_prompts_ends_as_asked(
    folder: Path, token_ids: list[int], device: str
) -> None:
    llm = open_model(folder, dtype="bfloat16", device=device)
    found = llm.generate([token_ids, token_ids[:7], token_ids[:64]], GREEDY)
    assert [len(completion.token_ids) for completion in found] == [12, 12, 12]


def test_routes_name_the_experts_that_the_cpu_chooses(
    folder: Path, token_ids: list[int], device: str
) -> None:
    expected = open_model(folder, dtype="float32", device="cpu").route(token_ids)
    trace = open_model(folder, dtype="float32", device=device).route(token_ids)
    same = trace.expert_ids.cpu() == expected.expert_ids
    assert float(same.float().mean()) > 0.995  # near ties fall either way
