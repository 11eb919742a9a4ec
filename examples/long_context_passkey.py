"""A key hidden in a long text: is it found at every depth?

Mixtral finds it everywhere in its 32k tokens (arXiv:2401.04088, section 3.2). ``mixtral passkey``
measures a whole grid of lengths and depths, with pictures; docs/long-context.md has more.
"""

import os

from mixtral import LLM, SamplingParams
from mixtral.eval.passkey import PromptWriter, RepeatedSentences

LENGTH = 1024  # tokens of prompt and answer together

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
filler = RepeatedSentences(llm.tokenizer)
writer = PromptWriter(llm.tokenizer, filler, style="chat", seed=0)
params = SamplingParams(temperature=0.0, max_tokens=writer.answer_tokens)

num_found = 0
depths = (0, 25, 50, 75, 100)
for depth in depths:
    # Prompts of one length begin alike up to the key; the prefix cache computes that part once.
    prompt = writer.write(min(LENGTH, llm.max_model_len), depth, case=0)
    answer = llm.generate([prompt.token_ids], params)[0].text
    is_found = prompt.key in answer
    num_found += is_found
    line = f"{depth:3} % deep: {prompt.key} {'found' if is_found else 'not found'}"
    print(f"{line}, the answer was {answer.strip()!r}")
print(f"{num_found} of {len(depths)} keys found in {len(prompt.token_ids)} tokens")
