"""Few-shot prompting: one worked example as earlier turns, then the record that is wanted.

The messages are those of the guide on promptingguide.ai. The example shows which JSON is meant, and
``response_format`` sees to it that what comes is JSON: tokens that would break it are never drawn.
"""

import json
import os

from mixtral import LLM, SamplingParams

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))

messages = [
    {
        "role": "system",
        "content": "You are a helpful code assistant. Your task is to generate a valid JSON object "
        "based on the given information.",
    },
    {
        "role": "user",
        "content": "name: John\nlastname: Smith\naddress: #1 Samuel St.\nwould be converted to:",
    },
    {
        "role": "assistant",
        "content": '{"address": "#1 Samuel St.", "lastname": "Smith", "name": "John"}',
    },
    {"role": "user", "content": "name: Ted\nlastname: Pot\naddress: #1 Bisson St."},
]

answer = llm.chat(
    messages,
    SamplingParams(temperature=0.0, max_tokens=80),
    response_format={"type": "json_object"},
)
print(json.dumps(json.loads(answer.text), indent=2))
