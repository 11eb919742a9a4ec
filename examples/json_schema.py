"""Answers of a given form: a JSON schema, one of a few texts, a regular expression.

The form holds whatever the weights are, also when ``max_tokens`` ends the answer early; whether
what it says is true is up to the model. docs/structured.md has every keyword.
"""

import json
import os

from mixtral import LLM, SamplingParams

TEXT = "Ada Lovelace, born in 1815, wrote the first program and liked it very much."
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "born": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "jobs": {"type": "array", "items": {"enum": ["writer", "engineer"]}, "maxItems": 2},
    },
    "required": ["name", "born", "jobs"],
    "additionalProperties": False,
}
ASKED = {
    "Who is it about?": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
    "Is the text glad or sad?": {"type": "choice", "choice": ["glad", "sad", "neither"]},
    "In which century was that?": {"type": "regex", "regex": "the 1[0-9]th century"},
}

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
for question, response_format in ASKED.items():
    messages = [{"role": "user", "content": f"{TEXT}\n{question}"}]
    params = SamplingParams(temperature=0.0, max_tokens=80)
    text = llm.chat(messages, params, response_format=response_format).text
    is_json = response_format["type"] == "json_schema"
    print(f"{question} {json.loads(text) if is_json else text}")
