"""The C structures of csrc/model.h, field by field, for ctypes.

Every field is eight bytes wide, so there is no padding to get wrong.
"""

import ctypes

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int64

WEIGHT_FORMATS = {"int3": 3, "int4": 4, "int8": 8, "bfloat16": 16}
"""Codes of ``WeightFormat`` in csrc/low_bit.h."""


class Weight(ctypes.Structure):
    """``MixtralWeight``: address, shape and format of a matrix."""

    _fields_ = [("data", _POINTER), ("rows", _INT), ("cols", _INT), ("format", _INT)]


class Layer(ctypes.Structure):
    """``MixtralLayer``: the weights of one layer; ``experts`` points to an array of ``Weight``."""

    _fields_ = [
        *[(name, _POINTER) for name in ("input_norm", "post_norm", "gate")],
        *[(name, Weight) for name in ("q", "k", "v", "o")],
        ("experts", _POINTER),
        ("experts_per_token", _INT),
    ]


class Model(ctypes.Structure):
    """``MixtralModel``: the geometry and all weights."""

    _fields_ = [
        *[(name, _INT) for name in ("layers", "hidden", "ffn", "vocab")],
        *[(name, _INT) for name in ("heads", "kv_heads", "head_dim")],
        *[(name, _INT) for name in ("experts", "experts_per_token", "window")],
        ("eps", ctypes.c_double),
        ("exact", _INT),
        ("kv_int8", _INT),
        *[(name, _POINTER) for name in ("frequencies", "embedding", "norm")],
        ("head", Weight),
        ("layer", _POINTER),
    ]


class Batch(ctypes.Structure):
    """``MixtralBatch``: the tokens of one step, and where its results go."""

    _fields_ = [
        *[(name, _INT) for name in ("tokens", "sequences", "num_rows")],
        *[(name, _INT) for name in ("block_size", "table_width", "cache_slots")],
        *[(name, _POINTER) for name in ("ids", "positions", "starts", "tables", "row_ids")],
        *[(name, _POINTER) for name in ("cache", "logits")],
        *[(name, _POINTER) for name in ("router_logits", "expert_ids", "routing_weights")],
        *[(name, _POINTER) for name in ("expert_load", "workspace")],
        ("workspace_bytes", _INT),
        ("adapters", _POINTER),
    ]


class LowRank(ctypes.Structure):
    """``MixtralLowRank``: what an adapter adds to one weight."""

    _fields_ = [("a", _POINTER), ("b", _POINTER), ("rank", _INT)]


class Adapters(ctypes.Structure):
    """``MixtralAdapters``: the adapters that the sequences of a step may have."""

    _fields_ = [
        ("max_rank", _INT),
        *[(name, _POINTER) for name in ("table", "of_sequence", "workspace")],
    ]


class Moe(ctypes.Structure):
    """``MixtralMoe``: the experts of one layer with the tokens they are given."""

    _fields_ = [
        *[(name, _INT) for name in ("tokens", "hidden", "ffn", "num_experts", "per_token")],
        ("exact", _INT),
        *[(name, _POINTER) for name in ("x", "expert_ids", "routing_weights", "experts")],
        *[(name, _POINTER) for name in ("out", "workspace")],
        ("workspace_bytes", _INT),
    ]
