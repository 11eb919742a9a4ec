"""A conversation with a follow-up question; the model's own template is written for you.

python examples/chat.py
MIXTRAL_MODEL=mistralai/Mixtral-8x7B-Instruct-v0.1 python examples/chat.py
"""

import os

from mixtral import LLM, SamplingParams

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
params = SamplingParams(temperature=0.3, min_tokens=3, max_tokens=60, seed=0)

messages = []
for question in ("What is a mixture of experts?", "How many experts work at a time?"):
    messages.append({"role": "user", "content": question})
    answer = llm.chat(messages, params)
    messages.append({"role": "assistant", "content": answer.text})
    print(f"> {question}\n{answer.text.strip()}\n")

# What the model saw the second time. [INST] and </s> are control tokens: no text can spell them.
seen = llm.encode_chat(messages[:3])
print("".join(llm.tokenizer.decode_token(token) for token in seen))
print(f"{answer.usage.prompt_tokens} tokens in, {answer.usage.completion_tokens} tokens out")
