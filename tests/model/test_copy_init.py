"""First weights that copy: an untrained model repeats what it has seen."""

import math

import pytest
import torch

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model import TokenBatch, Transformer, init_weights
from mixtral.model.copy_init import init_copying
from mixtral.tokenizer import load_tokenizer
from tests.models_for_tests import tiny_config


def loss_on_repeats(
    config: ModelConfig, *, copies: bool, pieces: list[bytes] | None = None, words: int = 40
) -> float:
    """Mean loss over the second and third of three repeats of random words."""
    model = Transformer(config)
    init_weights(model, seed=0)
    if copies:
        init_copying(model, seed=0, pieces=pieces)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(3, config.vocab_size - 10, (words,), generator=generator).tolist()
    tokens = [1, *drawn, *drawn, *drawn]
    with torch.no_grad():
        logits = model.logits(model(TokenBatch.from_sequences([tokens])))
    loss = torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(tokens[1:]), reduction="none"
    )
    return float(loss[words + 1 :].mean())


def test_untrained_model_repeats_what_it_saw() -> None:
    config = ModelConfig.preset("nano").replace(num_hidden_layers=4, rope_theta=1e6)
    guessing = math.log(config.vocab_size)
    assert loss_on_repeats(config, copies=False) > 0.95 * guessing
    assert loss_on_repeats(config, copies=True) < 0.3 * guessing
    tokenizer = load_tokenizer("v3")
    pieces = [tokenizer.token_bytes(number) for number in range(config.vocab_size)]
    assert loss_on_repeats(config, copies=True, pieces=pieces) < 0.35 * guessing


def test_embedding_is_the_head_and_still_normal_noise() -> None:
    model = Transformer(ModelConfig.preset("nano").replace(num_hidden_layers=4, rope_theta=1e6))
    init_weights(model, seed=0)
    init_copying(model, seed=0)
    embedding = model.model.embed_tokens.weight
    assert model.lm_head.weight is embedding
    centred = (embedding - embedding.mean(0)).detach()
    assert float(centred.std()) == pytest.approx(0.12, rel=0.1)


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 3}, {"num_hidden_layers": 4, "rope_theta": 100.0}]
)
def test_geometry_without_room_is_refused(changes: dict[str, float]) -> None:
    model = Transformer(tiny_config(**changes))
    with pytest.raises(ConfigError, match="init is 'copy'; it needs at least 4 layers"):
        init_copying(model, seed=0)
