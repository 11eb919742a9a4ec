"""The worked example of docs/function-calling.md is what the code does."""

from pathlib import Path
from typing import Any

import pytest

from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools import plan_tools
from mixtral.tools.markers import marker_token_ids
from tests.tools.tools_for_tests import RandomAnswer, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "function-calling.md"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ASKED = [{"role": "user", "content": "Weather in Paris and Rome?"}]
LISTED = (
    '[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_weather", "arguments": {"city": "Rome"}}]'
)
IDS = ("VvvODy9mT", "n2Kd81LpQ")


def prompt(tokenizer: Tokenizer, compiler: GrammarCompiler, messages: Any) -> tuple[str, int]:
    plan = plan_tools(tokenizer, compiler, messages=messages, tools=[TOOL])
    assert plan is not None
    token_ids = tokenizer.encode_chat(plan.messages, tools=plan.tools)
    return "".join(map(tokenizer.decode_token, token_ids)), len(token_ids)


@pytest.fixture
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_prompts_of_the_page_are_the_prompts(
    page: str, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    first, num_tokens = prompt(tokenizer, compiler, ASKED)
    assert f"```\n{first}\n```" in page
    assert f"{num_tokens} tokens" in page
    calls = [
        {"id": i, "function": {"name": "get_weather", "arguments": {"city": city}}}
        for i, city in zip(IDS, ("Paris", "Rome"), strict=True)
    ]
    results = [
        {"role": "tool", "tool_call_id": i, "content": f'{{"celsius": {celsius}}}'}
        for i, celsius in zip(IDS, (21, 24), strict=True)
    ]
    history = [*ASKED, {"role": "assistant", "tool_calls": calls}, *results]
    second, _ = prompt(tokenizer, compiler, history)
    assert second.startswith(first)
    assert f"```\n{second.removeprefix(first).strip()}\n```" in page


def test_answer_of_the_page_is_read_as_two_calls(
    page: str, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    said = [*marker_token_ids(tokenizer), *tokenizer.encode(LISTED, bos=False), tokenizer.eos_id]
    spelled = "".join(map(tokenizer.decode_token, said)).strip()
    assert f"```\n{spelled}\n{said}\n```" in page
    plan = plan_tools(tokenizer, compiler, messages=ASKED, tools=[TOOL])
    assert plan is not None
    answer = RandomAnswer(tokenizer, plan, seed=0, max_tokens=80, first=said)
    assert answer.token_ids == said
    _, calls, _ = read(tokenizer, plan, said)
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
