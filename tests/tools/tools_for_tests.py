"""Tools, random answers under a grammar, and what a client would make of them."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np

from mixtral.outputs import ToolCall
from mixtral.tokenizer import StreamDecoder, Tokenizer
from mixtral.tools import ToolPlan

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
USER = {"role": "user", "content": "Weather in Paris?"}

_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def as_tool(function: dict[str, Any]) -> dict[str, Any]:
    """Write a function of the leaderboard, which has Python's names of types, as OpenAI's tool."""
    return {
        "type": "function",
        "function": {
            "name": re.sub(r"[^a-zA-Z0-9_-]", "_", function["name"])[:64],
            "description": function["description"],
            "parameters": _json_schema(function["parameters"]),
        },
    }


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Rename types; leave out defaults, and "optional", which is no keyword."""
    result = {
        key: value for key, value in schema.items() if key not in ("type", "optional", "default")
    }
    kind = schema.get("type")
    if kind != "any" and kind is not None:
        result["type"] = _JSON_TYPES.get(kind, kind)
    if isinstance(schema.get("properties"), dict):
        result["properties"] = {
            name: _json_schema(value) for name, value in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = _json_schema(schema[key])
    return result


def allowed_ids(mask: np.ndarray | None) -> list[int]:
    """Return the tokens of a mask, which must be one."""
    assert mask is not None
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


class RandomAnswer:
    """What an engine with random logits says under a plan, token by token.

    Args:
        first: Tokens that the model says of its own accord, as long as nothing is masked.
        end_bias: Chance that the end token is taken where it may be.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        plan: ToolPlan,
        *,
        seed: int,
        max_tokens: int,
        first: Sequence[int] = (),
        end_bias: float = 0.5,
    ) -> None:
        rng = random.Random(seed)
        state = plan.grammar.start() if plan.grammar is not None else None
        self.token_ids: list[int] = []
        self.finish_reason = "length"
        while len(self.token_ids) < max_tokens:
            num = len(self.token_ids)
            mask = None
            if state is not None:
                state.prepare(max_tokens - num)
                mask = state.mask()
            token_id = _choose(rng, mask, tokenizer, end_bias, first[num:])
            self.token_ids.append(token_id)
            if token_id == tokenizer.eos_id:
                self.finish_reason = "stop"
                break
            if state is not None:
                state.accept(token_id)
                if state.is_complete and state.was_shortened:
                    break


def _choose(
    rng: random.Random,
    mask: np.ndarray | None,
    tokenizer: Tokenizer,
    end_bias: float,
    wanted: Sequence[int],
) -> int:
    if mask is None:
        if wanted:
            return wanted[0]
        return tokenizer.eos_id if rng.random() < end_bias else rng.randrange(300, 30000)
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    allowed = allowed[allowed < tokenizer.vocab_size]
    assert len(allowed) > 0, "the grammar allows no token"
    if wanted and wanted[0] in allowed:
        return wanted[0]
    if tokenizer.eos_id in allowed and (len(allowed) == 1 or rng.random() < end_bias):
        return tokenizer.eos_id
    return int(allowed[rng.randrange(len(allowed))])


def read(
    tokenizer: Tokenizer, plan: ToolPlan, token_ids: Sequence[int]
) -> tuple[str, list[ToolCall], bool]:
    """Return the text, the calls, and whether a list was cut, of one answer."""
    reader = plan.reader()
    decoder = StreamDecoder(tokenizer)
    text, calls = "", []
    for token_id in token_ids:
        shown, new = reader.push(token_id, decoder.push(token_id))
        text += shown
        calls += new
    shown, new = reader.push(tokenizer.eos_id, decoder.flush())
    last, more = reader.flush()
    return text + shown + last, [*calls, *new, *more], reader.is_cut


def assert_valid(call: ToolCall, tools: Sequence[dict[str, Any]]) -> None:
    """Check a call as a careful client would."""
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", call.id)
    (schema,) = (
        tool["function"].get("parameters") or {"type": "object", "maxProperties": 0}
        for tool in tools
        if tool["function"]["name"] == call.function.name
    )
    jsonschema.validate(json.loads(call.function.arguments), schema)
