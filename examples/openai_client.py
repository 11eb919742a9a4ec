"""OpenAI's own client: only its base_url differs.

First start a server, in another terminal: mixtral serve --model nano
The client is not part of this project: pip install openai==3.54.0 (docs/clients.md has others).
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("MIXTRAL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("MIXTRAL_API_KEY", "none"),
)

answer = client.chat.completions.create(
    model="nano",
    messages=[{"role": "user", "content": "Who are you?"}],
    max_tokens=40,
    extra_body={"safe_prompt": True},  # a field of Mistral's API
)
print(answer.choices[0].message.content)

with client.chat.completions.create(
    model="nano",
    messages=[{"role": "user", "content": "Tell me a story."}],
    max_tokens=40,
    stream=True,
) as chunks:
    for chunk in chunks:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

vectors = client.embeddings.create(model="mistral-embed", input=["Hello", "Goodbye"])
print(len(vectors.data), "vectors of", len(vectors.data[0].embedding), "components")
