"""Mistral's own client: only its server_url differs.

First start a server, in another terminal: mixtral serve --model nano
The client is not part of this project: pip install mistralai==3.7.0. The clients of 2023 and 2024,
which the guides use, work too: guides/ and docs/clients.md.
"""

import os

from mistralai.client import Mistral

with Mistral(
    server_url=os.environ.get("MIXTRAL_URL", "http://127.0.0.1:8000"),
    api_key=os.environ.get("MIXTRAL_API_KEY", "none"),
) as client:
    messages = [{"role": "user", "content": "Who are you?"}]
    answer = client.chat.complete(
        model="open-mixtral-8x22b", messages=messages, max_tokens=40, safe_prompt=True
    )
    print(answer.choices[0].message.content)

    with client.chat.stream(model="open-mixtral-8x22b", messages=messages, max_tokens=40) as events:
        for event in events:
            print(event.data.choices[0].delta.content, end="", flush=True)
    print()

    vectors = client.embeddings.create(model="mistral-embed", inputs=["Hello", "Goodbye"])
    print(len(vectors.data), "vectors of", len(vectors.data[0].embedding), "components")
