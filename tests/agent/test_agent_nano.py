"""The model in the package calls functions: not whether it is clever, but that the form holds."""

import json
import re

from mixtral import LLM, SamplingParams
from mixtral.agent import Agent


def get_weather(city: str, days: int = 1) -> dict[str, object]:
    """Return the weather of a city.

    Args:
        city: Name of the city.
        days: Days ahead.
    """
    return {"city": city, "days": days, "celsius": 21}


def test_every_call_of_nano_is_valid_and_answered() -> None:
    llm = LLM("nano", device="cpu")
    params = SamplingParams(temperature=0.0, max_tokens=48)
    agent = Agent(llm, [get_weather], tool_choice="any", max_steps=1, params=params)
    run = agent.run("What is the weather in Paris?")
    # The first answer must call, the second, after one round, must not.
    assert len(run.steps) == 2
    assert run.steps[0].calls
    assert not run.steps[1].calls
    assert {call.status for call in run.calls} == {"ok"}
    for call in run.calls:
        assert re.fullmatch(r"[a-zA-Z0-9]{9}", call.id)
        assert json.loads(call.result)["celsius"] == 21
    assert run.finish_reason == "max_steps"
    roles = [message["role"] for message in run.messages]
    assert roles[:2] == ["user", "assistant"]
    assert roles.count("tool") == len(run.calls)
    # The conversation is one that the model can go on with.
    llm.requests.chat([*run.messages, {"role": "user", "content": "Thank you."}], params)
