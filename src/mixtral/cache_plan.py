"""How large the KV cache is: fixed at start, from a wish or from the free memory."""

import logging
from dataclasses import dataclass

import torch

from mixtral.config import EngineConfig
from mixtral.errors import ConfigError
from mixtral.machine import available_memory_bytes
from mixtral.memory_plan import CACHE_SHARE
from mixtral.model import LanguageModel
from mixtral.validation import require_int, require_positive_number

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """Size of the KV cache and the context that it allows."""

    num_blocks: int
    """Blocks of ``EngineConfig.block_size`` tokens."""
    max_model_len: int
    """Longest context in tokens."""


def plan_cache(
    model: LanguageModel,
    *,
    max_model_len: int | None,
    kv_cache_gb: float | None,
    max_num_seqs: int,
    unread_bytes: int = 0,
) -> CachePlan:
    """Fit the cache to a wish or to the free memory.

    Args:
        model: The loaded model.
        max_model_len: Longest context wanted; None takes the model's own, or what fits.
        kv_cache_gb: Size wanted in GB; None takes a share of the free memory.
        max_num_seqs: Sequences that should find room at full length, memory allowing.
        unread_bytes: Bytes of mapped weights, which still count as free memory.

    Raises:
        ConfigError: The wish is outside its range, or does not fit.
    """
    config = model.config
    longest = config.max_position_embeddings
    if max_model_len is not None:
        require_int("max_model_len", max_model_len, low=1)
        if max_model_len > longest:
            raise ConfigError(
                f"max_model_len is {max_model_len}; it must be from 1 to {longest}, "
                "the context of this model."
            )
    require_int("max_num_seqs", max_num_seqs, low=1)
    wanted = max_model_len or longest
    block_size = EngineConfig(num_blocks=1).block_size
    block_bytes = model.cache_bytes(num_blocks=1, block_size=block_size)
    if kv_cache_gb is not None:
        require_positive_number("kv_cache_gb", kv_cache_gb)
        if kv_cache_gb * 1e9 > (free := _free_bytes(model, 0)):
            raise ConfigError(
                f"kv_cache_gb is {kv_cache_gb}, and {free / 1e9:.1f} GB of memory are free; "
                "lower it, or leave it out."
            )
        num_blocks = int(kv_cache_gb * 1e9 / block_bytes)
    else:
        most = max_num_seqs * -(-wanted // block_size)
        room_bytes = CACHE_SHARE * _free_bytes(model, unread_bytes)
        num_blocks = min(most, int(room_bytes / block_bytes))
    room = num_blocks * block_size
    if room >= wanted:
        return CachePlan(num_blocks=num_blocks, max_model_len=wanted)
    if max_model_len is not None or num_blocks < 1:
        raise ConfigError(
            f"the KV cache has room for {room} tokens and max_model_len is {wanted}; "
            "lower max_model_len, raise kv_cache_gb, or free some memory."
        )
    logger.warning("the context is %d of %d tokens: the KV cache has no more room", room, wanted)
    return CachePlan(num_blocks=num_blocks, max_model_len=room)


def _free_bytes(model: LanguageModel, unread_bytes: int) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    return max(0, available_memory_bytes() - unread_bytes)
