"""Streaming: text while it is made, and how long the first piece took."""

import os
import time

from mixtral import LLM, SamplingParams

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
messages = [{"role": "user", "content": "Tell me a story about a fox and the moon."}]
params = SamplingParams(temperature=0.7, min_tokens=20, max_tokens=80, seed=0)

begin = time.perf_counter()
first_s = None
for chunk in llm.stream_chat(messages, params):
    # A piece is empty while a character of several tokens, or a stop string, is incomplete.
    if chunk.text and first_s is None:
        first_s = time.perf_counter() - begin
    print(chunk.text, end="", flush=True)

num_tokens = chunk.usage.completion_tokens
speed = num_tokens / (time.perf_counter() - begin)
print(f"\n{num_tokens} tokens, the first after {first_s or 0:.3f} s, {speed:.0f} tokens/s")
print(f"ended by: {chunk.finish_reason}")
