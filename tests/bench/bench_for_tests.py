"""What the tests of the benchmarks share: a tiny model, an engine over it, options."""

from typing import Any

import pytest
import torch

from mixtral.bench.contender import MixtralContender, Room
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.session import StepOptions
from mixtral.bench.steps import Workload
from mixtral.config import ModelConfig
from mixtral.kernels.cpu import load_library
from mixtral.model import CpuTransformer, LanguageModel, Transformer
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_packed_tensors, random_tensors

RESULT_FIELDS = {
    "work",
    "engine",
    "model",
    "layers",
    "format",
    "batch",
    "prompt_tokens",
    "new_tokens",
    "threads",
    "tokens_per_s",
    "step_ms",
    "weight_bytes_per_step",
    "bandwidth_fraction",
    "peak_fraction",
    "peak_rss_bytes",
    "probes",
}
CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=4,
    max_position_embeddings=128,
)


ROOM = Room(sequences=3, tokens=64, slots=192)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    return Transformer.from_tensors(CONFIG, random_tensors(CONFIG, dtype=dtype, seed=seed))


def packed_model(recipe: str = "int4") -> CpuTransformer:
    return CpuTransformer(CONFIG, random_packed_tensors(CONFIG, RECIPES[recipe]))


def contender(model: LanguageModel, format_name: str = "float32") -> MixtralContender:
    return MixtralContender(model, ROOM, format_name=format_name)


def options(work: str, *, batches: tuple[int, ...] = (1,), **changes: Any) -> StepOptions:
    return StepOptions(
        model=ModelOptions(name="random:nano", layers=1, threads=1, **changes),
        workloads=[
            Workload(work=work, batch=batch, prompt_tokens=8, new_tokens=2)  # type: ignore[arg-type]
            for batch in batches
        ],
        repeats=2,
    )


needs_library = pytest.mark.skipif(load_library() is None, reason="the C++ library is not built")
