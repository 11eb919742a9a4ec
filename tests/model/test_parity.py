"""Logits against transformers, from every published layout."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixtral import LLM
from mixtral.config import ModelConfig
from mixtral.model import TokenBatch
from tests.checkpoints_for_tests import LAYOUTS, write_random
from tests.models_for_tests import tiny_config, tiny_model

GEOMETRIES = {
    "grouped heads, 8 experts, theta 1e6": tiny_config(num_local_experts=8),
    "multi-query, 6 experts, theta 1e4": tiny_config(
        num_key_value_heads=1, num_local_experts=6, rope_theta=1e4, head_dim=32
    ),
    "full heads, 4 experts, 32768 words": tiny_config(num_key_value_heads=4, vocab_size=32768),
    "one of 5 experts, sliding window 8, tied head": tiny_config(
        num_local_experts=5,
        num_experts_per_tok=1,
        sliding_window=8,
        tie_word_embeddings=True,
        vocab_size=640,
    ),
}


def reference_logits(folder: Path, token_ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_logits_equal_transformers_from_every_layout(geometry: str, tmp_path: Path) -> None:
    config = GEOMETRIES[geometry]
    token_ids = torch.randint(
        0, config.vocab_size, (29,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    write_random("hf", tmp_path / "hf", config, seed=0)
    expected = reference_logits(tmp_path / "hf", token_ids)
    for layout in LAYOUTS:
        folder = tmp_path / layout
        if layout != "hf":
            write_random(layout, folder, config, seed=0)
        llm = LLM(folder, dtype="float32", device="cpu", max_model_len=64)
        error = (llm.logits(token_ids) - expected).abs().max() / expected.abs().max()
        assert error < 2e-4, f"{layout}: relative error {error}"


def test_dense_mistral_7b_geometry_equals_transformers(tmp_path: Path) -> None:
    config = tiny_config(num_local_experts=0, num_experts_per_tok=0, sliding_window=16)
    write_random("hf", tmp_path, config, seed=3)
    token_ids = list(range(5, 45))
    expected = reference_logits(tmp_path, token_ids)
    actual = LLM(tmp_path, device="cpu", max_model_len=64).logits(token_ids)
    assert (actual - expected).abs().max() / expected.abs().max() < 2e-4


def test_bfloat16_logits_are_close_to_float32_ones(tmp_path: Path) -> None:
    config = tiny_config()
    write_random("hf", tmp_path, config, seed=4)
    token_ids = list(range(20))
    wide = LLM(tmp_path, dtype="float32", device="cpu").logits(token_ids)
    narrow = LLM(tmp_path, dtype="bfloat16", device="cpu").logits(token_ids)
    assert (wide - narrow).norm() / wide.norm() < 3e-2


def test_sequences_laid_flat_do_not_see_each_other() -> None:
    model = tiny_model()
    first, second = [3, 4, 5, 6], [7, 8, 9]
    together = model(TokenBatch.from_sequences([first, second]))
    alone = model(TokenBatch.from_sequences([second]))
    torch.testing.assert_close(together[4:], alone, atol=1e-5, rtol=1e-4)


def test_model_from_tensors_names_what_is_missing_wrong_or_unknown() -> None:
    from mixtral.errors import CheckpointError
    from mixtral.model import Transformer

    tensors = dict(tiny_model().named_parameters())
    config: ModelConfig = tiny_config()
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, for one model\.norm"):
        Transformer.from_tensors(
            config, [(n, t) for n, t in tensors.items() if n != "model.norm.weight"]
        )
    with pytest.raises(CheckpointError, match=r"extra\.weight is not part of this model"):
        Transformer.from_tensors(config, [*tensors.items(), ("extra.weight", torch.zeros(1))])
    wrong = tensors | {"model.norm.weight": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(3,\)"):
        Transformer.from_tensors(config, wrong.items())


def test_stacking_experts_keeps_the_logits() -> None:
    model = tiny_model().to(torch.bfloat16)
    batch = TokenBatch.from_sequences([[1, 2, 3, 4, 5]])
    before = model.logits(model(batch))
    model.stack_experts()
    after = model.logits(model(batch))
    assert (before - after).norm() / before.norm() < 2e-2
