"""First weights with which a small model can copy from its context before it is trained.

A transformer copies with two heads that work together, an induction head (arXiv:2209.11895): one
looks at the token before and notes it down beside the current one, a later one looks for a place
whose note says what the current token is, and repeats what stands there. Large models find this by
themselves after some hundred million tokens; a small one on a small budget may never. Setting
attention to a useful pattern at the start is known to save much of the training of small models
(mimetic initialization, arXiv:2305.09828). Here it is this pattern:

    states       parted in mean [1], notes [n] and free [D - 1 - n]
    embedding    constant in mean, nothing in notes, normal noise in free, or what the token spells
    layer 0      one head: query and key read mean alone and are turned against each other by one
                 position, so it looks at the token before, whatever it is; it writes n numbers of
                 that token to notes
    layers 2, 3  one head per KV group: the query is the same n numbers of the current token, the
                 key is notes. Both stand in pairs of the rotary embedding that turn so slowly that
                 the distance hardly matters. What is found is copied, K numbers by each head

All else is normal noise, as without this, and all of it learns. Letters as in
``kernels/reference.py``.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model.attention import Attention
from mixtral.model.spelling_features import spelling_features
from mixtral.model.transformer import DecoderLayer, Transformer

_NOTE_LAYER = 0
_COPY_LAYERS = (2, 3)
_LEAST_NOTES = 8
# Standard deviation of the embedding: with a tied head, a state that is one token's embedding gives
# that token a logit of 0.12 * D, enough to be sure of it among 32k words.
_EMBEDDING_STD = 0.12
_MEAN_SHARE = 0.7  # length of the constant over that of the noise
_NOTE_GAIN = 2.0  # length of a note over that of an embedding
_COPY_GAIN = 6.0  # what a copying head adds over what it read
_NUM_FAST_PAIRS = 6  # the fastest pairs tell neighbouring positions apart
_POSITION_SCORE = 60.0  # score of the token before over one where the pairs cancel
_MATCH_SCORE = 60.0  # score of a note that matches over one that does not


def init_copying(model: Transformer, seed: int, pieces: Sequence[bytes] | None = None) -> None:
    """Set embedding and some heads of a model so that it copies, in place.

    Call it after ``init_weights``. On repeated random words an untrained nano then has less than a
    third of the loss of guessing (tests/model/test_copy_init.py).

    Args:
        model: At least 4 layers, on the CPU, in float32.
        seed: Equal seeds give equal weights.
        pieces: What each of the first V tokens writes, nothing for control tokens; then tokens
            that are spelled alike begin alike (``spelling_features``). None makes all noise.

    Raises:
        ConfigError: The geometry has no room for it.
    """
    config = model.config
    slow = _slow_dimensions(config)
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(rows: int, columns: int) -> Tensor:
        """Return rows of length 1 at right angles to each other."""
        columns_first: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
        return columns_first.T

    basis = orthonormal(config.hidden_size, config.hidden_size)
    mean, notes, free = basis[0], basis[1 : 1 + len(slow)], basis[1 + len(slow) :]
    reader = orthonormal(len(slow), len(free)) @ free  # [n, D]: what a note holds of a token
    values = orthonormal(config.hidden_size, config.hidden_size)
    token_norm = _EMBEDDING_STD * math.sqrt(len(free))
    # What the norm in front of a layer multiplies states by, before and after notes are in them.
    plain = math.sqrt(config.hidden_size) / math.hypot(1, _MEAN_SHARE) / token_norm
    noted = math.sqrt(config.hidden_size) / math.hypot(1, _MEAN_SHARE, _NOTE_GAIN) / token_norm
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        noise = torch.randn(len(embedding), len(free), generator=generator)
        if pieces is not None:
            noise[: len(pieces)] = spelling_features(pieces, len(free), generator)
        embedding.copy_(_EMBEDDING_STD * noise @ free + _MEAN_SHARE * token_norm * mean)
        first = _attention(model, _NOTE_LAYER)
        _look_back(first, config, mean, normed=_MEAN_SHARE * token_norm * plain)
        _note(
            first, config, reader, notes, gain=_NOTE_GAIN / plain * (len(free) / len(slow)) ** 0.5
        )
        for number, layer in enumerate(_COPY_LAYERS):
            product = token_norm * (len(slow) / len(free)) ** 0.5 * _NOTE_GAIN * token_norm
            _match(_attention(model, layer), config, slow, reader, notes, product * noted**2)
            _copy(_attention(model, layer), config, values, number, gain=_COPY_GAIN / noted)


def _look_back(attention: Attention, config: ModelConfig, mean: Tensor, *, normed: float) -> None:
    """Make head 0 look at the token before; ``normed`` is the constant in a normed state."""
    width = config.head_dim
    frequencies = _frequencies(config)
    fast = torch.zeros(width // 2)
    fast[:_NUM_FAST_PAIRS] = _NUM_FAST_PAIRS**-0.5
    query = torch.cat([fast, torch.zeros_like(fast)])
    key = torch.cat([fast * frequencies.cos(), fast * frequencies.sin()])  # one position ahead
    gain = math.sqrt(_POSITION_SCORE * math.sqrt(width)) / normed
    attention.q_proj.weight[:width] = gain * query[:, None] * mean
    attention.k_proj.weight[:width] = gain * key[:, None] * mean


def _note(
    attention: Attention, config: ModelConfig, reader: Tensor, notes: Tensor, *, gain: float
) -> None:
    """Make head 0 write ``reader`` of what it looks at, [n, D], to ``notes``, [n, D]."""
    attention.v_proj.weight[: config.head_dim] = 0
    attention.v_proj.weight[: len(reader)] = reader
    attention.o_proj.weight[:, : config.head_dim] = 0
    attention.o_proj.weight[:, : len(notes)] = gain * notes.T


def _match(
    attention: Attention,
    config: ModelConfig,
    slow: Tensor,
    reader: Tensor,
    notes: Tensor,
    product: float,
) -> None:
    """Make one head of each group look for notes of the current token.

    ``product`` is what query and key of a match give without a gain.
    """
    width = config.head_dim
    gain = math.sqrt(_MATCH_SCORE * math.sqrt(width) / product)
    query, key = torch.zeros(width, config.hidden_size), torch.zeros(width, config.hidden_size)
    query[slow], key[slow] = gain * reader, gain * notes
    for group in range(config.num_key_value_heads):
        attention.q_proj.weight[_rows(config, group * _per_group(config))] = query
        attention.k_proj.weight[_rows(config, group)] = key


def _copy(
    attention: Attention, config: ModelConfig, values: Tensor, number: int, *, gain: float
) -> None:
    """Make the matching heads repeat what they find, each some of its dimensions."""
    width, groups = config.head_dim, config.num_key_value_heads
    for group in range(groups):
        first = (number * groups + group) * width % (config.hidden_size - width + 1)
        part = values[first : first + width]
        attention.v_proj.weight[_rows(config, group)] = part
        attention.o_proj.weight[:, _rows(config, group * _per_group(config))] = gain * part.T


def _rows(config: ModelConfig, head: int) -> slice:
    return slice(head * config.head_dim, (head + 1) * config.head_dim)


def _per_group(config: ModelConfig) -> int:
    return config.num_attention_heads // config.num_key_value_heads


def _slow_dimensions(config: ModelConfig) -> Tensor:
    """Return the dimensions of a head that turn by less than a radian over the whole context."""
    half = config.head_dim // 2
    turned = _frequencies(config) * config.max_position_embeddings
    pairs = (turned < 1).nonzero()[:, 0]
    if config.num_hidden_layers <= max(_COPY_LAYERS) or 2 * len(pairs) < _LEAST_NOTES:
        raise ConfigError(
            f"init is 'copy'; it needs at least {max(_COPY_LAYERS) + 1} layers, not "
            f"{config.num_hidden_layers}, and {_LEAST_NOTES} dimensions of a head that turn by "
            f"less than a radian over the context, not {2 * len(pairs)}. Use a larger rope_theta "
            "or head_dim, or init 'normal'."
        )
    return torch.cat([pairs, pairs + half])


def _frequencies(config: ModelConfig) -> Tensor:
    half = config.head_dim // 2
    return config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)


def _attention(model: Transformer, layer: int) -> Attention:
    return cast(DecoderLayer, model.model.layers[layer]).self_attn
