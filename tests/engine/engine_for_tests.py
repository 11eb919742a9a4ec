"""Small engines, and how tests run them."""

import random
from typing import Any

from mixtral.config import EngineConfig
from mixtral.engine import Engine, SamplingParams
from mixtral.engine.sequence import Sequence
from tests.models_for_tests import tiny_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def make_engine(model: Any = None, *, num_blocks: int = 64, **settings: Any) -> Engine:
    config = EngineConfig(num_blocks=num_blocks, block_size=8, **settings)
    return Engine(model or tiny_model(), config, max_model_len=256)


def run(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    return finish(engine, [engine.add(prompt, params) for prompt in prompts])


def finish(engine: Engine, sequence_ids: list[int]) -> list[list[int]]:
    tokens: dict[int, list[int]] = {i: [] for i in sequence_ids}
    while engine.has_unfinished:
        for output in engine.step():
            tokens.setdefault(output.sequence_id, []).append(output.token_id)
    return [tokens[i] for i in sequence_ids]


def random_prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(512) for _ in range(rng.randrange(1, 40))] for _ in range(count)]


def make_sequence(number: int, num_prompt_tokens: int = 8, **fields: Any) -> Sequence:
    """Return a sequence whose prompt is unlike that of any other number."""
    defaults: dict[str, Any] = {
        "sequence_id": number,
        "prompt_token_ids": [(number * 1009 + i) % 100_003 for i in range(num_prompt_tokens)],
        "params": GREEDY,
        "max_tokens": 12,
        "eos_token_id": 2,
    }
    return Sequence(**(defaults | fields))
