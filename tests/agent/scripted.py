"""A model whose answers are written down before, and servers that give them over HTTP."""

import copy
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mixtral.agent import ModelTurn
from mixtral.outputs import FunctionCall, ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the model was asked."""

    messages: list[dict[str, Any]]
    tools: list[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    timeout_s: float | None


class ScriptedModel:
    """Gives prepared turns, in order; an exception among them is raised."""

    def __init__(self, *turns: ModelTurn | Exception) -> None:
        self.turns = list(turns)
        self.asked: list[Asked] = []

    def next_turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: str | Mapping[str, Any],
        parallel_tool_calls: bool,
        params: object,
        timeout_s: float | None,
    ) -> ModelTurn:
        self.asked.append(
            Asked(
                messages=copy.deepcopy([dict(message) for message in messages]),
                tools=list(tools),
                tool_choice=tool_choice,
                timeout_s=timeout_s,
            )
        )
        turn = self.turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn


def says(text: str, finish_reason: Any = "stop") -> ModelTurn:
    return ModelTurn(text=text, finish_reason=finish_reason, prompt_tokens=7, completion_tokens=3)


def calls(*named: tuple[str, Mapping[str, Any] | str], text: str = "") -> ModelTurn:
    """Return a turn that calls tools; arguments are an object, or a text as a model wrote it."""
    return ModelTurn(
        text=text,
        finish_reason="tool_calls",
        tool_calls=[
            ToolCall(
                id=f"call{place:05d}",
                function=FunctionCall(
                    name=name,
                    arguments=given if isinstance(given, str) else json.dumps(given),
                ),
            )
            for place, (name, given) in enumerate(named)
        ],
    )


def completion(turn: ModelTurn) -> dict[str, Any]:
    """Return a turn as a server of OpenAI's API writes it."""
    tool_calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in turn.tool_calls
    ]
    message = {"role": "assistant", "content": turn.text, "tool_calls": tool_calls or None}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": turn.finish_reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5},
    }


class ScriptedServer(ThreadingHTTPServer):
    """Answers each POST with the next prepared status and body; notes what it was sent."""

    def __init__(self, answers: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(size)))
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["Authorization"])
        self.server.may_answer.wait(10)
        status, content = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def scripted_server(*answers: ModelTurn | tuple[int, Any]) -> Iterator[ScriptedServer]:
    """Serve turns, or pairs of a status and a JSON value, on a free port."""
    written = [
        (200, json.dumps(completion(each)).encode())
        if isinstance(each, ModelTurn)
        else (each[0], json.dumps(each[1]).encode())
        for each in answers
    ]
    with ScriptedServer(written) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.may_answer.set()
            server.shutdown()
            thread.join()
