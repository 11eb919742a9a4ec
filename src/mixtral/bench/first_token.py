"""A process that loads a model, makes one token and says what it took: the body of ``bench load``.

Run as ``python -m mixtral.bench.first_token MODEL PROMPT_TOKENS THREADS [RECIPE]``. It is a process
of its own because resident memory has a high-water mark per process and file mappings outlive
nothing else. The last line it prints is JSON.
"""

import json
import sys
import time

import torch

from mixtral.bench.results import peak_rss_bytes
from mixtral.engine import SamplingParams
from mixtral.llm import LLM


def measure_first_token(
    model: str, *, prompt_tokens: int, threads: int, quantization: str | None = None
) -> dict[str, float]:
    """Load a model and generate one token from a prompt of fixed ids.

    Returns:
        Seconds in the constructor, seconds from its start to the token, seconds that another prompt
        of the same length takes afterwards, and peak resident bytes; imports come before and are
        not counted.
    """
    torch.set_num_threads(threads)
    imported_bytes = peak_rss_bytes()
    begin = time.perf_counter()
    llm = LLM(model, device="cpu", quantization=quantization)
    constructed = time.perf_counter()
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    prompt = [1 + i % (llm.config.vocab_size - 1) for i in range(prompt_tokens)]
    llm.generate([prompt], params)
    first = time.perf_counter()
    peak = peak_rss_bytes()
    llm.generate([prompt[::-1]], params)
    return {
        "construct_s": constructed - begin,
        "first_token_s": first - begin,
        "prefill_s": time.perf_counter() - first,
        "imported_rss_bytes": imported_bytes,
        "peak_rss_bytes": peak,
    }


def main() -> None:
    """Measure what the command line names and print it."""
    model, prompt_tokens, threads, *recipe = sys.argv[1:]
    found = measure_first_token(
        model,
        prompt_tokens=int(prompt_tokens),
        threads=int(threads),
        quantization=recipe[0] if recipe else None,
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
