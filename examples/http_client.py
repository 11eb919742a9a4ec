"""Any HTTP client: the API is JSON over POST, and a stream is lines that begin with "data:".

First start a server, in another terminal: mixtral serve --model nano
Where it has an API key, say it in MIXTRAL_API_KEY. docs/api.md has every field.
"""

import json
import os

import httpx

URL = os.environ.get("MIXTRAL_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('MIXTRAL_API_KEY', 'none')}"}
BODY = {
    "model": "mistral-small",  # the served model answers to the names of Mistral's guides
    "messages": [{"role": "user", "content": "Who are you?"}],
    "temperature": 0.0,
    "max_tokens": 40,
}

with httpx.Client(base_url=URL, headers=HEADERS, timeout=60) as client:
    response = client.post("/v1/chat/completions", json=BODY)
    response.raise_for_status()
    answer = response.json()
    print(answer["choices"][0]["message"]["content"])
    print(answer["usage"])

    with client.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                print(choice["delta"].get("content", ""), end="", flush=True)
    print()
