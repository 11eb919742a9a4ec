"""``mixtral chat``: a scripted session, its commands, and Ctrl-C."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mixtral import LLM, SamplingParams
from mixtral.checkpoint.peft import write_adapter
from mixtral.cli.chat import _handle_at_terminal
from mixtral.cli.chat_session import HELP, ChatSession
from mixtral.cli.conversation import Conversation, Turn
from mixtral.errors import InvalidRequest
from mixtral.model_source import find_model
from mixtral.outputs import CompletionChunk, Usage
from tests.adapters_for_tests import random_adapter
from tests.cli.conftest import Run


@pytest.fixture
def chat(run: Run, tiny: Path) -> Run:
    def invoke(*lines: str, args: tuple[object, ...] = ()) -> Result:
        fixed = ("--model", tiny, "--device", "cpu", "--seed", 3, "--max-tokens", 6)
        return run("chat", *fixed, *args, input="".join(line + "\n" for line in lines))

    return invoke


def fake_stream(*texts: str, interrupt: bool = False) -> Any:
    def stream_chat(
        self: LLM, messages: Any, *args: Any, adapter: None
    ) -> Iterator[CompletionChunk]:
        for count, text in enumerate(texts, start=1):
            usage = Usage(prompt_tokens=4, completion_tokens=count)
            yield CompletionChunk(text=text, token_ids=(5,), finish_reason=None, usage=usage)
        if interrupt:
            raise KeyboardInterrupt

    return stream_chat


def test_answers_are_those_of_generate_and_history_grows(run: Run, tiny: Path, chat: Run) -> None:
    result = chat("Hello", "/tokens")
    once = run(
        *("generate", "--model", tiny, "--device", "cpu", "--seed", 3, "--max-tokens", 6),
        "Hello",
    )
    assert result.exit_code == 0
    assert result.stdout.startswith(once.stdout)
    token_ids, count = result.stdout.splitlines()[-2:]
    assert count == f"{len(token_ids.split())} of 256 tokens in 2 messages."
    assert token_ids.startswith("1 3 ")


def test_adapter_answers_the_whole_conversation(
    chat: Run, run: Run, tiny: Path, tmp_path: Path
) -> None:
    config = find_model(str(tiny)).config
    write_adapter(tmp_path / "poems", random_adapter(config, scale=lambda name: 9.0), config)
    options = ("--adapter", tmp_path / "poems")
    once = run(
        *("generate", "--model", tiny, "--device", "cpu", "--seed", 3, "--max-tokens", 6),
        *(*options, "Hello"),
    )
    assert chat("Hello", args=options).stdout.startswith(once.stdout)
    assert not chat("Hello").stdout.startswith(once.stdout)


def test_every_command(chat: Run, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    result = chat(
        "/system",
        "/system Be brief.",
        "/system",
        "Hello",
        f"/save {file}",
        "/reset",
        "/tokens",
        f"/load {file}",
        '/params temperature=0 stop=["a b", "c"] max_tokens=none logit_bias={"7": -5}',
        '/system ""',
        "/help",
        "/exit",
        "never read",
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for expected in (
        "there is no system text.",
        "Be brief.",
        f"saved 3 messages to {file}.",
        "forgot 2 messages.",
        "0 of 256 tokens in 0 messages.",
        f"loaded 3 messages from {file}.",
        "temperature=0",
        'stop=["a b", "c"]',
        "max_tokens=null",
        'logit_bias={"7": -5}',
        "system text removed.",
    ):
        assert expected in lines
    assert all(any(line.startswith(name) for line in lines) for name in HELP)
    assert [entry["role"] for entry in json.loads(file.read_text())] == [
        "system",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/nope", "/nope is no command; /help lists them"),
        ("/params top_p=7", "top_p is 7"),
        ("/params n=2", "'n=2' sets nothing"),
        ("/params seed", "'seed' sets nothing"),
        ("/params logit_bias=3", "logit_bias is '3'"),
        ('/params logit_bias={"' + "9" * 5000 + '": 1}', "logit_bias token id is '999"),
        ("/params stop=[1]", "stop is [1]"),
        ("/save", "/save needs the name of a file"),
        ("/load /nowhere/x.json", "/nowhere/x.json: No such file"),
        ("/save new.json", "the conversation is empty, so there is nothing to save"),
        ("/save! new.json", "the conversation is empty, so there is nothing to save"),
        ("/exit strategies", "/exit takes nothing"),
        ("/exit\tstrategies", "/exit takes nothing"),
        ("/reset all", "/reset takes nothing"),
    ],
)
def test_wrong_command_is_one_line_and_the_chat_goes_on(chat: Run, line: str, part: str) -> None:
    result = chat(line, "/tokens")
    errors = [entry for entry in result.stderr.splitlines() if entry.startswith("error: ")]
    assert len(errors) == 1
    assert part in errors[0]
    assert result.stdout == "0 of 256 tokens in 0 messages.\n"
    assert result.exit_code == 0


def test_save_leaves_a_file_of_others_alone(
    chat: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LLM, "stream_chat", fake_stream("Hi"))
    file = tmp_path / "talk.json"
    file.write_text("[]")
    result = chat("Hello", f"/save {file}", "/save /nowhere/x.json")
    assert f"error: {file} is there already, and is not from this chat" in result.stderr
    assert f"overwrite it with /save! {file}." in result.stderr
    assert "/nowhere/x.json: No such file" in result.stderr
    assert file.read_text() == "[]"
    assert "error" not in chat("Hello", f"/save! {file}", "Go on", f"/save {file}").stderr
    assert len(json.loads(file.read_text())) == 4
    assert "error" not in chat(f"/load {file}", "Go on", f"/save {file}").stderr
    assert len(json.loads(file.read_text())) == 6


def test_message_that_does_not_fit_is_said_with_numbers_and_taken_back(chat: Run) -> None:
    result = chat("word " * 300, "/tokens")
    assert "together they must be at most 256" in result.stderr
    assert "/reset starts over. Your message was not sent." in result.stderr
    assert "in 0 messages" in result.stdout


def test_full_context_is_said_with_numbers(run: Run, tiny: Path) -> None:
    result = run(
        *("chat", "--model", tiny, "--device", "cpu", "--ignore-eos", "--max-model-len", 24),
        input="Hello\n",
    )
    assert "[the context is full: 24 of 24 tokens; /reset starts over]" in result.stderr


def test_interrupt_stops_the_answer_and_keeps_it(
    chat: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LLM, "stream_chat", fake_stream("Half an", " answer", interrupt=True))
    file = tmp_path / "talk.json"
    result = chat("Hello", f"/save {file}", "/tokens")
    assert result.exit_code == 0
    assert result.stdout.startswith("Half an answer\n")
    assert "[answer stopped" in result.stderr
    assert json.loads(file.read_text())[-1] == {
        "role": "assistant",
        "content": "Half an answer",
        "interrupted": True,
    }
    assert "in 2 messages" in result.stdout


def test_interrupt_beside_an_answer_keeps_the_conversation(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = ChatSession(LLM(str(tiny), device="cpu"), SamplingParams())
    monkeypatch.setattr(LLM, "stream_chat", fake_stream("Hi"))
    assert _handle_at_terminal(session, "Hello")
    monkeypatch.setattr(LLM, "stream_chat", fake_stream("Half", interrupt=True))
    monkeypatch.setattr("mixtral.cli.chat_session.write_text", _interrupted)
    assert _handle_at_terminal(session, "Go on")
    assert _handle_at_terminal(session, "/tokens")
    assert "[stopped; the conversation stays]" in capsys.readouterr().err
    assert [turn.content for turn in session.conversation.turns] == ["Hello", "Hi"]


def _interrupted(text: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("interrupt", [True, False])
def test_empty_answer_leaves_no_trace(
    chat: Run, monkeypatch: pytest.MonkeyPatch, interrupt: bool
) -> None:
    monkeypatch.setattr(LLM, "stream_chat", fake_stream("", interrupt=interrupt))
    result = chat("Hello", "/tokens")
    assert "your message is not kept" in result.stderr
    assert "0 of 256 tokens in 0 messages.\n" in result.stdout


def test_two_slashes_send_one(chat: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def stream_chat(
        self: LLM, messages: Any, *args: Any, adapter: None
    ) -> Iterator[CompletionChunk]:
        seen.append(messages[-1]["content"])
        return iter(())

    monkeypatch.setattr(LLM, "stream_chat", stream_chat)
    chat("//etc is a folder")
    assert seen == ["/etc is a folder"]


def test_conversation_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    conversation = Conversation(
        system="Be kind.",
        turns=[
            Turn(role="user", content="Gr\u00fc\u00dfe\n"),
            Turn(role="assistant", content="Hel", is_interrupted=True),
            Turn(role="user", content="Go on"),
        ],
    )
    conversation.save(tmp_path / "a.json")
    assert Conversation.load(tmp_path / "a.json") == conversation
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "no list of messages"),
        ('{"a": 1}', "no list of messages"),
        ("[3]", "message 1 is not an object"),
        ('[{"role": "tool", "content": "x"}]', "role 'tool'"),
        ('[{"role": "user"}]', "content None"),
        ('[{"role": "assistant", "content": ""}]', "empty answer"),
        ('[{"role": "user", "content": "x", "tools": []}]', "the key tools"),
        ('[{"role": "user", "content": "x", "interrupted": "no"}]', "interrupted 'no'"),
        (
            '[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]',
            "message 2 is a system message",
        ),
    ],
)
def test_broken_file_is_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=part):
        Conversation.load(file)
