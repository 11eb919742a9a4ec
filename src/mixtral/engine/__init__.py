"""Token ids in, token ids out: scheduling, KV cache blocks, sampling. Knows no text."""

from mixtral.engine.constraint import Constraint
from mixtral.engine.engine import Engine, TokenOutput
from mixtral.engine.sampler import TokenLogprob
from mixtral.engine.sampling_params import SamplingParams
from mixtral.engine.stats import EngineStats, StepReport

__all__ = [
    "Constraint",
    "Engine",
    "EngineStats",
    "SamplingParams",
    "StepReport",
    "TokenLogprob",
    "TokenOutput",
]
