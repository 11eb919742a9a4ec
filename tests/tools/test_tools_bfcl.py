"""Every function of the Berkeley Function Calling Leaderboard, called from random logits."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools import plan_tools
from tests.tools.tools_for_tests import USER, RandomAnswer, as_tool, assert_valid, read

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval" / "bfcl"
NUM_PARTS = 16


def all_tools() -> list[dict[str, Any]]:
    """Return each definition once."""
    tools: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.json*")):
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        for line in text.decode().splitlines():
            for function in json.loads(line).get("function", []):
                tools.setdefault(json.dumps(function, sort_keys=True), as_tool(function))
    return list(tools.values())


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="the leaderboard's files are not beside this tree")
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_every_function_of_the_leaderboard_can_only_be_called_validly(
    part: int, tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    version = ("v1", "v3")[part % 2]
    tokenizer, compiler = tokenizers[version], compilers[version]
    tools = all_tools()[part::NUM_PARTS]
    assert len(tools) > 150
    refused = 0
    for seed, tool in enumerate(tools):
        name = tool["function"]["name"]
        named = {"type": "function", "function": {"name": name}}
        try:
            plan = plan_tools(tokenizer, compiler, messages=[USER], tools=[tool], tool_choice=named)
        except InvalidRequest as error:
            # Some definitions require a number out of an enum of strings: nothing is valid there.
            if "nsatisfiable" not in str(error):
                raise
            refused += 1
            continue
        assert plan is not None
        tokenizer.encode_chat(plan.messages, tools=plan.tools)
        answer = RandomAnswer(tokenizer, plan, seed=seed, max_tokens=400)
        text, calls, is_cut = read(tokenizer, plan, answer.token_ids)
        assert (text, is_cut) == ("", False), name
        assert calls, name
        for call in calls:
            assert_valid(call, [tool])
    assert refused <= 2
