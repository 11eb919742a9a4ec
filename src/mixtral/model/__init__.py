"""The Mixtral model: flat token ids and a block KV cache in, hidden states and logits out."""

from mixtral.model.batch import TokenBatch
from mixtral.model.cpu_transformer import CpuTransformer
from mixtral.model.kv_cache import KVCache
from mixtral.model.language_model import LanguageModel
from mixtral.model.router_trace import RouterTrace
from mixtral.model.transformer import Transformer, init_weights

__all__ = [
    "CpuTransformer",
    "KVCache",
    "LanguageModel",
    "RouterTrace",
    "TokenBatch",
    "Transformer",
    "init_weights",
]
