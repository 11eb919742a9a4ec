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
    config: ModelConfig,
    *,
    copies: bool,
    pieces: list[bytes] | None = None,
    words: int = 40,
    different: int = 30_000,
) -> float:
    """Mean loss over the second and third of three repeats of random words.

    The first two words of a repeat are left out: what stands before them is new.
    """
    model = Transformer(config)
    init_weights(model, seed=0)
    if copies:
        init_copying(model, seed=0, pieces=pieces)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(1000, 1000 + different, (words,), generator=generator).tolist()
    tokens = [1, *drawn, *drawn, *drawn]
    with torch.no_grad():
        logits = model.logits(model(TokenBatch.from_sequences([tokens])))
    loss = torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(tokens[1:]), reduction="none"
    )
    return float(torch.cat([loss[words + 2 : 2 * words], loss[2 * words + 2 :]]).mean())


def test_untrained_model_repeats_what_it_saw() -> None:
    config = ModelConfig.preset("nano").replace(num_hidden_layers=4)
    guessing = math.log(config.vocab_size)
    assert loss_on_repeats(config, copies=False) > 0.95 * guessing
    assert loss_on_repeats(config, copies=True) < 0.3 * guessing
    tokenizer = load_tokenizer("v3")
    pieces = [tokenizer.token_bytes(number) for number in range(config.vocab_size)]
    assert loss_on_repeats(config, copies=True, pieces=pieces) < 0.35 * guessing


def test_two_tokens_in_a_row_find_their_place_where_each_of_them_is_everywhere() -> None:
    """Digits: 40 of them, ten different ones, so what follows one of them is anyone's guess."""
    config = ModelConfig.preset("nano").replace(num_hidden_layers=4)
    least = math.log(4)  # what is left to guess for who knows the four that followed a digit
    assert loss_on_repeats(config, copies=True, words=40, different=10) < 2 * least
    assert loss_on_repeats(config, copies=False, words=40, different=10) > 4 * least


def test_embedding_is_the_head_and_still_normal_noise() -> None:
    model = Transformer(ModelConfig.preset("nano").replace(num_hidden_layers=4))
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
