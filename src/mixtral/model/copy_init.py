"""First weights with which a small model can copy from its context before it is trained.

A transformer copies with two heads that work together, an induction head (arXiv:2209.11895): one
looks at the token before and notes it down beside the current one, a later one looks for a place
whose note says what the current token is, and repeats what stands there. Large models find this by
themselves after some hundred million tokens; a small one on a small budget may never. Setting
attention to a useful pattern at the start is known to save much of the training of small models
(mimetic initialization, arXiv:2305.09828). Here it is this pattern:

    states       parted in mean [1], notes [2 * m] and free [F = D - 1 - 2 * m]
    embedding    constant in mean, nothing in notes, normal noise in free, or what the token spells
    layer 0      two heads: query and key read mean alone, and the query is turned by one position,
                 or two, so they look at the token before and at the one before that, whatever they
                 are; each writes m numbers of its token to a block of notes
    layers 2, 3  in each KV group the key is the notes, and the first head asks: where was the
                 current token noted one back, and the one before it two back? Two tokens in a row
                 tell places apart that one does not: a digit, a comma or "is" is everywhere. What
                 is found is copied, K numbers by each group. The second head asks where both were
                 noted as they are noted here, one and two back, which finds the value of a key in
                 another layout; what it reads is not added to anything until it is learned.
                 Queries and keys stand in pairs of the rotary embedding that turn so slowly that
                 the distance hardly matters.

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
_NUM_NOTES = 2  # how many tokens before are noted down
_LEAST_NOTE = 4  # fewest numbers of a note
# Standard deviation of the embedding: with a tied head, a state that is one token's embedding gives
# that token a logit of 0.12 * D, enough to be sure of it among 32k words.
_EMBEDDING_STD = 0.12
_MEAN_SHARE = 0.7  # length of the constant over that of the noise
_NOTE_GAIN = 0.8  # length of a note over that of an embedding
_COPY_GAIN = 6.0  # what the copying heads add over what they read
_FAST_PAIRS = (4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # weights of the pairs that tell positions apart
_POSITION_SCORE = 120.0  # score of the position looked at over one where the pairs cancel
_MATCH_SCORE = 60.0  # score of a note that matches over one that does not
# Tokens before the current one -> the note it is compared with, and its share of the score.
_AS_NOTED_NEXT = ((0, 1, 1.0), (1, 2, 0.6))
_AS_NOTED_HERE = ((1, 1, 0.5), (2, 2, 1.0))


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
    size = len(slow) // _NUM_NOTES
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(rows: int, columns: int) -> Tensor:
        """Return rows of length 1 at right angles to each other."""
        columns_first: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
        return columns_first.T

    basis = orthonormal(config.hidden_size, config.hidden_size)
    mean, notes, free = basis.split([1, _NUM_NOTES * size, len(basis) - 1 - _NUM_NOTES * size])
    reader = orthonormal(size, len(free)) @ free  # [m, D]: what a note holds of a token
    values = orthonormal(len(free), len(free)) @ free
    token_norm = _EMBEDDING_STD * math.sqrt(len(free))
    # What the norm in front of a layer multiplies states by, before and after notes are in them.
    plain = math.sqrt(config.hidden_size) / math.hypot(1, _MEAN_SHARE) / token_norm
    noted = math.sqrt(config.hidden_size) / token_norm
    noted /= math.hypot(1, _MEAN_SHARE, _NOTE_GAIN * _NUM_NOTES**0.5)
    written = _NOTE_GAIN * math.sqrt(len(free) / size)  # a note over what the reader reads
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        noise = torch.randn(len(embedding), len(free), generator=generator)
        if pieces is not None:
            noise[: len(pieces)] = spelling_features(pieces, len(free), generator)
        embedding.copy_(_EMBEDDING_STD * noise @ free + _MEAN_SHARE * token_norm * mean)
        first = _attention(model, _NOTE_LAYER)
        blocks = notes.view(_NUM_NOTES, size, -1)
        for head, block in enumerate(blocks):
            _look_back(
                first, config, mean[0], head, back=head + 1, normed=_MEAN_SHARE * token_norm * plain
            )
            _note(first, config, reader, block, head, gain=written / plain)
        # What a query or key reads of the current token [0], and of the tokens before it.
        read = [reader, *(block / written for block in blocks)]
        length = token_norm * math.sqrt(size / len(free)) * noted
        for number, layer in enumerate(_COPY_LAYERS):
            attention = _attention(model, layer)
            _match(attention, config, slow, read, length)
            _copy(attention, config, values, number, gain=_COPY_GAIN / noted)


def _look_back(
    attention: Attention, config: ModelConfig, mean: Tensor, head: int, *, back: int, normed: float
) -> None:
    """Make a head look ``back`` tokens back; ``normed`` is the constant in a normed state."""
    fast = torch.zeros(config.head_dim // 2)
    weights = torch.tensor(_FAST_PAIRS[: len(fast)])
    fast[: len(weights)] = (weights / weights.sum()).sqrt()
    turn = back * _frequencies(config)
    query = torch.cat([fast * turn.cos(), -fast * turn.sin()])
    key = torch.cat([fast, torch.zeros_like(fast)])
    gain = math.sqrt(_POSITION_SCORE * math.sqrt(config.head_dim)) / normed
    attention.q_proj.weight[_rows(config, head)] = gain * query[:, None] * mean
    attention.k_proj.weight[_rows(config, head // _per_group(config))] = gain * key[:, None] * mean


def _note(
    attention: Attention,
    config: ModelConfig,
    reader: Tensor,
    block: Tensor,
    head: int,
    *,
    gain: float,
) -> None:
    """Make a head write ``reader`` of what it looks at, [m, D], to ``block``, [m, D]."""
    value = torch.zeros(config.head_dim, config.hidden_size)
    value[: len(reader)] = reader
    attention.v_proj.weight[_rows(config, head // _per_group(config))] = value
    written = torch.zeros(config.hidden_size, config.head_dim)
    written[:, : len(reader)] = gain * block.T
    attention.o_proj.weight[:, _rows(config, head)] = written


def _match(
    attention: Attention,
    config: ModelConfig,
    slow: Tensor,
    read: Sequence[Tensor],
    length: float,
) -> None:
    """Make the first two heads of each group look for notes.

    ``read`` is what is read of the current token and of those before it, each [m, D]; ``length``
    is how long that is.
    """
    gain = math.sqrt(_MATCH_SCORE * math.sqrt(config.head_dim)) / length
    size = len(read[0])
    places = [slow[number::_NUM_NOTES][:size] for number in range(_NUM_NOTES)]
    for group in range(config.num_key_value_heads):
        key = attention.k_proj.weight[_rows(config, group)]
        key[slow] = 0
        for number, place in enumerate(places):
            key[place] = gain * read[number + 1]
        for nth, pattern in zip(
            range(_per_group(config)), (_AS_NOTED_NEXT, _AS_NOTED_HERE), strict=False
        ):
            query = attention.q_proj.weight[_rows(config, group * _per_group(config) + nth)]
            query[slow] = 0
            for before, note, share in pattern:
                query[places[note - 1]] = gain * share * read[before]


def _copy(
    attention: Attention, config: ModelConfig, values: Tensor, number: int, *, gain: float
) -> None:
    """Make both heads of a group read K dimensions of what they find, and the first repeat it."""
    width, groups = config.head_dim, config.num_key_value_heads
    for group in range(groups):
        first = (number * groups + group) * width % max(1, len(values) - width + 1)
        part = values[first : first + width]
        head = group * _per_group(config)
        attention.v_proj.weight[_rows(config, group)][: len(part)] = part
        attention.o_proj.weight[:, _rows(config, head)][:, : len(part)] = gain * part.T
        if _per_group(config) > 1:
            attention.o_proj.weight[:, _rows(config, head + 1)] = 0


def _rows(config: ModelConfig, head: int) -> slice:
    return slice(head * config.head_dim, (head + 1) * config.head_dim)


def _per_group(config: ModelConfig) -> int:
    return config.num_attention_heads // config.num_key_value_heads


def _slow_dimensions(config: ModelConfig) -> Tensor:
    """Return the dimensions of a head that turn by less than a radian over the whole context."""
    half = config.head_dim // 2
    turned = _frequencies(config) * config.max_position_embeddings
    pairs = (turned < 1).nonzero()[:, 0]
    least = _NUM_NOTES * _LEAST_NOTE
    if (
        config.num_hidden_layers <= max(_COPY_LAYERS)
        or config.num_attention_heads < _NUM_NOTES
        or 2 * len(pairs) < least
    ):
        raise ConfigError(
            f"init is 'copy'; it needs at least {max(_COPY_LAYERS) + 1} layers, not "
            f"{config.num_hidden_layers}, {_NUM_NOTES} heads, not {config.num_attention_heads}, "
            f"and {least} dimensions of a head that turn by less than a radian over the context, "
            f"not {2 * len(pairs)}. Use a larger rope_theta or head_dim, or init 'normal'."
        )
    return torch.cat([pairs, pairs + half])


def _frequencies(config: ModelConfig) -> Tensor:
    half = config.head_dim // 2
    return config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)


def _attention(model: Transformer, layer: int) -> Attention:
    return cast(DecoderLayer, model.model.layers[layer]).self_attn
