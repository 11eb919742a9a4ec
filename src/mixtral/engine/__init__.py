"""Token ids in, token ids out: scheduling, KV cache blocks, sampling. Knows no text."""

from mixtral.engine.engine import Engine, TokenOutput
from mixtral.engine.sampler import TokenLogprob
from mixtral.engine.sampling_params import SamplingParams

__all__ = ["Engine", "SamplingParams", "TokenLogprob", "TokenOutput"]
