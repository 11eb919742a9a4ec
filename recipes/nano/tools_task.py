"""Function calling in the v3 format: choose a tool and fill it in, or say that none fits.

Two to five tools, unknown ones for the most part; one in six conversations asks for something that
none of them does, or just talks. A call is written without an id, which the server adds; earlier
calls of a conversation have one, and are not learned.
"""

import json
import string
from random import Random
from typing import Any

import words
from conversation import Conversation, Message
from known_tools import KNOWN_TOOLS, KnownTool
from talk_task import make_talk
from tool_specs import Arguments, Tool, call, draw_tool
from values import any_value, as_text
from words import Split, wording

NONE_FITS = "None of my tools can do that."
SYSTEMS = ("", "", "", "You are a helpful assistant.", "Use the tools if they help.",
           "You can call functions. If none fits, answer in words.")  # fmt: skip
OTHER_REQUESTS = (
    "Write a poem about a {t}.", "Tell me a joke about a {t}.", "What do you think of {t}s?",
    "Who invented the {t}?", "Draw a {t}.", "How do I cook {f}?", "Sing a song about {f}.",
    "Why is the {t} so expensive?", "Play some music.", "Can you walk the dog?",
    "What does the word {w} mean?", "Fix my {t} for me.", "How far is it to {c}?",
    "Where can I eat {f} in {c}?", "Is {c} a nice place?", "Explain {w} to me.",
)  # fmt: skip


def make_tools(rng: Random, split: Split = "train") -> Conversation:
    """Ask for one of several tools, now and then for two calls at once."""
    tools, chosen = _toolbox(rng, split)
    request, arguments = _request(rng, split, chosen)
    calls = [call(chosen.name, arguments)]
    if isinstance(chosen, Tool) and chosen.attribute and rng.random() < 0.15:
        subject = chosen.parameters[0]
        second = {subject.name: subject.draw(rng, split)}
        first = {subject.name: arguments[subject.name]}
        if first != second:
            pair = f"{as_text(first[subject.name])} and {as_text(second[subject.name])}"
            request = rng.choice(chosen.requests).replace("{subject}", pair)
            calls = [call(chosen.name, first), call(chosen.name, second)]
    answer: Message = {"role": "assistant", "tool_calls": calls}
    return _conversation(rng, tools, request, (answer,), "tools", check="calls",
                         expected=[_plain(made) for made in calls])  # fmt: skip


def make_no_tool(rng: Random, split: Split = "train") -> Conversation:
    """Ask for something that no tool of the list does."""
    tools, _ = _toolbox(rng, split)
    draw = rng.random()
    answer = NONE_FITS
    if draw < 0.4:
        request = draw_tool(rng, split).ask(rng, split)[0]
        while any(tool.thing in request for tool in tools if isinstance(tool, Tool)):
            request = draw_tool(rng, split).ask(rng, split)[0]
    elif draw < 0.7:
        request = wording(rng, split, OTHER_REQUESTS).format(
            t=words.THINGS.draw(rng, split), f=words.FOODS.draw(rng, split),
            c=words.city(rng, split), w=words.any_word(rng, split),
        )  # fmt: skip
    else:
        talk = make_talk(rng, split)
        # Its first turn alone; what follows in a talk would have no tools in its prompt.
        questions = [m["content"] for m in talk.messages if m["role"] == "user"]
        answers = [m["content"] for m in talk.messages if m["role"] == "assistant"]
        request, answer = questions[0], answers[0]
    said: Message = {"role": "assistant", "content": answer}
    return _conversation(rng, tools, request, (said,), "no_tool", check="text")


def make_tool_result(rng: Random, split: Split = "train") -> Conversation:
    """Give a tool's result, to be said in a sentence; sometimes with a second question after it."""
    tools, chosen = _toolbox(rng, split)
    request, arguments = _request(rng, split, chosen)
    call_id = "".join(rng.choices(string.ascii_letters + string.digits, k=9))
    made: Message = {
        "role": "assistant",
        "tool_calls": [call(chosen.name, arguments, call_id)],
    }
    content, answer, mentioned = _result(rng, split, chosen, arguments)
    result: Message = {"role": "tool", "tool_call_id": call_id, "content": content}
    said: Message = {"role": "assistant", "content": answer}
    turns: tuple[Message, ...] = (made, result, said)
    if split == "train" and rng.random() < 0.3:
        again, more = _request(rng, split, chosen)
        turns += (
            {"role": "user", "content": again},
            {"role": "assistant", "tool_calls": [call(chosen.name, more)]},
        )
    return _conversation(rng, tools, request, turns, "tool_result", check="mentions",
                         expected=mentioned)  # fmt: skip


def _toolbox(rng: Random, split: Split) -> tuple[list[Tool | KnownTool], Tool | KnownTool]:
    """Draw two to five tools with different names, in random order, and which one is meant."""
    count = rng.choice((2, 2, 3, 3, 4, 5)) if rng.random() < 0.95 or split == "heldout" else 1
    tools: dict[str, Tool | KnownTool] = {}
    first: Tool | KnownTool | None = None
    while len(tools) < count:
        if split == "train" and rng.random() < 0.3:
            drawn: Tool | KnownTool = rng.choice(KNOWN_TOOLS)
        else:
            # Now and then a second tool for the same thing, so that the verb decides.
            is_same = isinstance(first, Tool) and rng.random() < 0.35
            thing = first.thing if is_same and isinstance(first, Tool) else ""
            drawn = draw_tool(rng, split, thing=thing)
        if not any(_are_alike(drawn, other) for other in tools.values()):
            tools[drawn.name] = drawn
            first = first or drawn
    listed = rng.sample(list(tools.values()), count)
    return listed, rng.choice(listed)


def _are_alike(one: Tool | KnownTool, other: Tool | KnownTool) -> bool:
    """Say whether a request could mean either."""
    if isinstance(one, Tool) and isinstance(other, Tool):
        if one.thing != other.thing:
            return one.name == other.name
        return one.attribute == other.attribute and bool(one.attribute)
    if isinstance(one, KnownTool) and isinstance(other, KnownTool):
        return bool(set(one.description.lower().split()) & set(other.description.lower().split())
                    & _TELLING) or one.name == other.name  # fmt: skip
    return one.name == other.name


_TELLING = {"weather", "arithmetic", "mathematical", "numbers.", "search", "web.", "internet"}


def _request(rng: Random, split: Split, tool: Tool | KnownTool) -> tuple[str, Arguments]:
    return tool.ask(rng, split) if isinstance(tool, Tool) else tool.ask(rng)


def _result(
    rng: Random, split: Split, tool: Tool | KnownTool, arguments: Arguments
) -> tuple[str, str, list[str]]:
    """Return a result as JSON, an answer, and what the answer must mention."""
    if rng.random() < 0.12:
        reason = " ".join(words.any_words(rng, split, 2))
        return json.dumps({"error": reason}), f"That did not work: {reason}.", [reason]
    attribute = tool.attribute or "status"
    value = any_value(rng, split)
    shown = as_text(value)
    content = json.dumps({attribute: value}, ensure_ascii=False)
    if tool.attribute and len(arguments) == 1:
        subject = as_text(next(iter(arguments.values())))
        return content, f"The {attribute} for {subject} is {shown}.", [shown]
    return content, f"The {attribute} is {shown}.", [shown]


def _conversation(
    rng: Random,
    tools: list[Tool | KnownTool],
    request: str,
    turns: tuple[Message, ...],
    task: str,
    **fields: Any,
) -> Conversation:
    system = rng.choice(SYSTEMS)
    head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
    return Conversation(
        messages=(*head, {"role": "user", "content": request}, *turns),
        task=task,
        tools=tuple(tool.definition() for tool in tools),
        learn_last_only=True,
        **fields,
    )


def _plain(made: dict[str, Any]) -> dict[str, Any]:
    function = made["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}
