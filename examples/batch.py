"""Many prompts at once: the answers are those of one by one, and the time is not.

Every step of the model runs one token of each unfinished answer, so the weights are read from
memory once for all of them. A prompt that ends early makes room for the next.
"""

import os
import time

from mixtral import LLM, SamplingParams

WHEN = ("Once upon a time", "In the morning", "After the war", "One winter")
PROMPTS = [f"{when} there was {who}" for when in WHEN for who in ("a king", "a dog", "rain")]

# Without the prefix cache, so that the second round starts from nothing, too.
llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"), enable_prefix_cache=False)
params = SamplingParams(temperature=0.8, max_tokens=16, seed=1, ignore_eos=True)

begin = time.perf_counter()
together = llm.generate(PROMPTS, params)
together_s = time.perf_counter() - begin

begin = time.perf_counter()
one_by_one = [llm.generate(prompt, params)[0] for prompt in PROMPTS]
one_by_one_s = time.perf_counter() - begin

num_tokens = sum(answer.usage.completion_tokens for answer in together)
print(f"together:   {num_tokens / together_s:6.0f} tokens/s")
print(f"one by one: {num_tokens / one_by_one_s:6.0f} tokens/s")
print("same answers:", [a.token_ids for a in together] == [a.token_ids for a in one_by_one])
print(PROMPTS[0] + together[0].text)
