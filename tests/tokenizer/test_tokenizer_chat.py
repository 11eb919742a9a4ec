"""What encode_chat puts right, what it refuses, and what it never lets through."""

import copy
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from mixtral.errors import InvalidRequest, UnsupportedError
from mixtral.tokenizer import SAFE_PROMPT, Tokenizer, load_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(call_id: str, arguments: object = '{"city": "Paris"}', **extra: object) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": call_id, "function": function, **extra}


def conversation(
    calls: list[dict[str, Any]], results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        user("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", **result} for result in results),
    ]


def test_safe_prompt_is_the_text_of_the_guides_as_first_system_text(
    tokenizer: Tokenizer, golden_chat: dict[str, Any]
) -> None:
    case = next(c for c in golden_chat["cases"] if c["name"] == "seed0_unsafe_safe_prompt")
    assert case["messages"][0] == {"role": "system", "content": SAFE_PROMPT}
    expected = case[tokenizer.version]["ids"]
    assert tokenizer.encode_chat(case["messages"][1:], safe_prompt=True) == expected


def test_safe_prompt_stands_before_the_system_text_with_an_empty_line(tokenizer: Tokenizer) -> None:
    system = {"role": "system", "content": "Be brief."}
    joined = {"role": "system", "content": f"{SAFE_PROMPT}\n\nBe brief."}
    assert tokenizer.encode_chat([system, user("Hi")], safe_prompt=True) == tokenizer.encode_chat(
        [joined, user("Hi")]
    )


def test_safe_prompt_alone_is_no_conversation(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        tokenizer.encode_chat([], safe_prompt=True)
    with pytest.raises(InvalidRequest, match="messages has type str"):
        tokenizer.encode_chat("Hi", safe_prompt=True)  # type: ignore[arg-type]


def test_developer_is_system(tokenizer: Tokenizer) -> None:
    ids = [
        tokenizer.encode_chat([{"role": role, "content": "Be brief."}, user("Hi")])
        for role in ("developer", "system")
    ]
    assert ids[0] == ids[1]


def test_continue_final_message_is_prefix_true(tokenizer: Tokenizer) -> None:
    answer = {"role": "assistant", "content": "Once upon"}
    assert tokenizer.encode_chat(
        [user("Story"), answer], continue_final_message=True
    ) == tokenizer.encode_chat([user("Story"), {**answer, "prefix": True}])
    with pytest.raises(InvalidRequest, match="last message is user"):
        tokenizer.encode_chat([user("Story")], continue_final_message=True)
    with pytest.raises(InvalidRequest, match="Expected last role User"):
        tokenizer.encode_chat([user("Story"), answer])


def test_tool_calls_as_clients_send_them_back_give_the_same_ids(
    tokenizers: dict[str, Tokenizer],
) -> None:
    result = {"tool_call_id": "abcdefgh1", "name": "get_weather", "content": "22"}
    plain = conversation([call("abcdefgh1", type="function")], [result])
    expected = tokenizers["v3"].encode_chat(plain, tools=[WEATHER])
    as_sent = {
        "mistralai 1.x adds index": [call("abcdefgh1", index=0, type="function")],
        "langchain leaves type out": [call("abcdefgh1")],
        "arguments as an object": [call("abcdefgh1", {"city": "Paris"})],
    }
    for name, calls in as_sent.items():
        messages = conversation(calls, [result])
        messages[1].update(prefix=False, refusal=None, function_call=None, annotations=[])
        assert tokenizers["v3"].encode_chat(messages, tools=[WEATHER]) == expected, name
    messages = conversation([call("abcdefgh1")], [{"content": "22"}])
    assert tokenizers["v3"].encode_chat(messages, tools=[WEATHER]) == expected


def test_tool_results_without_id_answer_the_open_calls_in_order(
    tokenizers: dict[str, Tokenizer],
) -> None:
    calls = [call("aaaaaaaa1"), call("aaaaaaaa2"), call("aaaaaaaa3")]
    ordered = ["aaaaaaaa1", "aaaaaaaa2", "aaaaaaaa3"]
    full = [{"tool_call_id": i, "content": c} for i, c in zip(ordered, "123", strict=True)]
    expected = tokenizers["v3"].encode_chat(conversation(calls, full))
    without = [{"content": c} for c in "123"]
    assert tokenizers["v3"].encode_chat(conversation(calls, without)) == expected
    second_named = [full[1], {"content": "1"}, {"content": "3"}]
    assert tokenizers["v3"].encode_chat(conversation(calls, second_named)) == tokenizers[
        "v3"
    ].encode_chat(conversation(calls, [full[1], full[0], full[2]]))


def test_input_is_not_changed(tokenizers: dict[str, Tokenizer]) -> None:
    messages = conversation([call("abcdefgh1", index=0)], [{"content": "22"}])
    tools = [copy.deepcopy(WEATHER)]
    before = copy.deepcopy((messages, tools))
    tokenizers["v3"].encode_chat(messages, tools=tools, safe_prompt=True)
    assert (messages, tools) == before


def test_v1_leaves_tools_out_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer("v1")
    plain = tokenizer.encode_chat([user("Hi")])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert tokenizer.encode_chat([user("Hi")], tools=[WEATHER]) == plain
    assert len(caplog.records) == 1
    assert "no tokens for tools" in caplog.text


def test_fim_is_refused_for_v1(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(UnsupportedError, match="v3"):
        tokenizers["v1"].encode_fim("a", "b")


def deep(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"properties": {"x": value}}
    return {"type": "function", "function": {"name": "f", "parameters": value}}


REFUSED: list[tuple[Any, str]] = [
    ("Hi", "messages has type str"),
    (["Hi"], r"messages\[0\] has type str"),
    ([{"content": "Hi"}], "role None"),
    ([{"role": ["user"], "content": "Hi"}], "the roles are"),
    ([{"role": "function", "content": "Hi"}], "'function'; the roles are"),
    ([{"role": "user"}], "no content"),
    ([{"role": "user", "content": None}], "no content"),
    ([{"role": "user", "content": 5}], "content has type int"),
    ([{"role": "user", "content": {"text": "x"}}], "content has type dict"),
    ([{"role": "user", "content": ["x"]}], r"content\[0\] has type str"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "text only"),
    ([{"role": "user", "content": "x", "prefix": True}], "unknown key 'prefix'"),
    ([{"role": "user", "content": "x", "temperature": 1}], "unknown key 'temperature'"),
    ([user("a\ud800b")], "lone surrogate U\\+D800 at character 1"),
    ([user("x"), {"role": "assistant"}, user("y")], "either content or tool_calls"),
    (
        [user("x"), {"role": "assistant", "content": "", "tool_calls": {}}],
        "tool_calls has type dict",
    ),
    (conversation([{"id": "abcdefgh1"}], []), 'must hold "function"'),
    (conversation([call("abcdefgh1", type="web")], []), "only type is 'function'"),
    (conversation([call("abcdefgh1", [1])], [{"content": "1"}]), "arguments"),
    (conversation([call("abcdefgh1", '{"a": "\\udc00"}')], [{"content": "1"}]), "lone surrogate"),
    (conversation([call("abcdefgh1")], [{"content": '"\\ud800"'}]), "lone surrogate"),
    (conversation([call("abcdefgh1")], [{"content": "9" * 5000}]), "integer string"),
    (conversation([call("abcdefgh1")], [{"content": "[" * 100_000}]), "nested too deeply"),
    ([*conversation([call("abcdefgh1")], []), user("x")], "Not the same number of function calls"),
    (conversation([call("abcdefgh1")], [{"content": "1"}] * 2), "Not the same number"),
    (conversation([call("null")], [{"content": "1"}]), "has to be defined"),
    (conversation([{"function": {"name": "f"}}], [{"content": "1"}]), "has to be defined"),
]


@pytest.mark.parametrize(("messages", "reason"), REFUSED, ids=[r for _, r in REFUSED])
def test_wrong_messages_are_refused_in_one_line(
    tokenizers: dict[str, Tokenizer], messages: Any, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        tokenizers["v3"].encode_chat(messages)
    assert "\n" not in str(caught.value)


WRONG_TOOLS: list[tuple[Any, str]] = [
    ({"name": "f"}, "tools has type dict"),
    (["f"], r"tools\[0\] must be of the form"),
    ([{"name": "f", "parameters": {}}], "must be of the form"),
    ([{"type": "function", "function": {}}], r"tools\[0\].function.name: Field required"),
    ([{"type": "web", "function": {"name": "f"}}], r"tools\[0\].type: Input should be 'function'"),
    ([{"function": {"name": "f", "parameters": {"type": 5}}}], "Invalid tool schema"),
    ([{"function": {"name": "f", "parameters": {"default": object()}}}], "not JSON serializable"),
    ([{"function": {"name": "f", "description": "\udfff"}}], "lone surrogate"),
    ([deep(100_000)], "nested too deeply|recursion"),
]


@pytest.mark.parametrize(("tools", "reason"), WRONG_TOOLS, ids=[r for _, r in WRONG_TOOLS])
def test_wrong_tools_are_refused_in_one_line(
    tokenizers: dict[str, Tokenizer], tools: Any, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        tokenizers["v3"].encode_chat([user("Hi")], tools=tools)
    assert "\n" not in str(caught.value)


def test_control_spellings_in_any_role_stay_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["v3"]
    plain = "x"
    spelled = " ".join(tokenizer.decode_token(i) for i in sorted(tokenizer.control_ids)[:16])

    def controls(text: str) -> list[int]:
        token_ids = tokenizer.encode_chat(
            [
                {"role": "system", "content": text},
                user(text),
                {
                    "role": "assistant",
                    "tool_calls": [call("abcdefgh1", json.dumps({"city": text}))],
                },
                {"role": "tool", "content": text},
                {"role": "assistant", "content": text},
                user(text),
            ],
            tools=[{"function": {"name": "f", "description": text, "parameters": {}}}],
            safe_prompt=True,
        )
        return [i for i in token_ids if i in tokenizer.control_ids]

    assert controls(spelled) == controls(plain)


def test_importing_the_tokenizer_imports_neither_torch_nor_mistral_common() -> None:
    code = (
        "import sys, mixtral.tokenizer as t; t.load_tokenizer('v3').encode('Hi');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'mistral_common', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
