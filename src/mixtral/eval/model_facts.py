"""What a model costs: its parameters, the bytes of its weights, and its speed on this machine.

They stand beside every quality in a report, so that ``mixtral eval compare`` can set one against
the other. The speed is that of one request at a time: a prompt of random tokens, which the prefix
cache cannot know, and an answer of fixed length. It compares runs of one machine alone, and a busy
machine is a slower one: so a probe of its memory, which bounds how fast answers come, stands beside
it.
"""

import random
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from mixtral.engine import SamplingParams
from mixtral.llm import LLM
from mixtral.machine import available_memory_bytes

_PROMPT_TOKENS, _ANSWER_TOKENS = 256, 32
_MAX_REPEATS = 3
_ENOUGH_S = 10.0  # a model that is slower than this is timed once
_SHORTEST_CONTEXT = 8
_PROBE_BYTES = 1 << 28  # larger than the caches of most processors


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Tokens per second of one request at a time, median over the repeats."""

    prefill_tokens_per_s: float
    """Tokens of the prompt over the time to the first new one."""
    decode_tokens_per_s: float
    """New tokens after the first over the time that they took."""
    prompt_tokens: int
    """Length of the prompt."""
    answer_tokens: int
    """Length of the answer."""
    repeats: int
    """How often it was timed, after a first request that was not."""
    threads: int
    """Threads that PyTorch had."""
    read_gb_per_s: float | None
    """Memory bandwidth that the processors got just after, 10^9 bytes per second; None where there
    was no room for the probe."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return asdict(self)


def describe_weights(llm: LLM) -> dict[str, Any]:
    """Return parameters, and bytes of the weights as they are held, an adapter left out."""
    config = llm.config
    return {
        "parameters": config.num_parameters,
        "active_parameters": config.num_active_parameters,
        "format": llm.weight_format,
        "weight_bytes": llm.weight_bytes,
        "bits_per_weight": 8 * llm.weight_bytes / config.num_parameters,
    }


def measure_speed(llm: LLM, *, adapter: str | None = None) -> Speed | None:
    """Time up to three requests, for about 10 seconds, or one where that takes longer.

    Args:
        llm: The model; nobody else may use it meanwhile.
        adapter: Name of an adapter; None asks the model as it is.

    Returns:
        The speed; None where the context is shorter than 8 tokens.
    """
    if llm.max_model_len < _SHORTEST_CONTEXT:
        return None
    answer = min(_ANSWER_TOKENS, llm.max_model_len // 4)
    prompt = min(_PROMPT_TOKENS, llm.max_model_len - answer)
    chance = random.Random(0)
    # The first request of a model reads its weights from the disk.
    _time(llm, chance, prompt=1, answer=2, adapter=adapter)
    measured: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(measured) < _MAX_REPEATS and time.perf_counter() - begin < _ENOUGH_S:
        measured.append(_time(llm, chance, prompt=prompt, answer=answer, adapter=adapter))
    return Speed(
        prefill_tokens_per_s=prompt / median(first for first, _ in measured),
        decode_tokens_per_s=(answer - 1) / median(rest for _, rest in measured),
        prompt_tokens=prompt,
        answer_tokens=answer,
        repeats=len(measured),
        threads=torch.get_num_threads(),
        read_gb_per_s=_read_gb_per_s(),
    )


def _time(
    llm: LLM, chance: random.Random, *, prompt: int, answer: int, adapter: str | None
) -> tuple[float, float]:
    """Return the seconds to the first new token, and from there to the last."""
    ids = [chance.randrange(llm.config.vocab_size) for _ in range(prompt)]
    params = SamplingParams(temperature=0.0, max_tokens=answer, ignore_eos=True)
    begin = time.perf_counter()
    times = []
    for chunk in llm.stream(ids, params, adapter=adapter):
        times += [time.perf_counter()] * len(chunk.token_ids)
    assert len(times) == answer, (len(times), answer)
    return times[0] - begin, times[-1] - times[0]


def _read_gb_per_s() -> float | None:
    """Return the best of three passes over numbers that no cache holds."""
    if available_memory_bytes() < 4 * _PROBE_BYTES:
        return None
    numbers = torch.ones(_PROBE_BYTES // 8, dtype=torch.int64)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - begin)
    return _PROBE_BYTES / min(seconds) / 1e9
