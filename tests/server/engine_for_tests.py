"""The engine boundary, faked: the server's tests say what the model answers and when."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import orjson

from mixtral.engine import EngineStats
from mixtral.outputs import CompletionChunk, FunctionCall, TokenChoice, TokenRoute, ToolCall, Usage
from mixtral.request import RequestBuilder
from mixtral.server.app import create_app
from mixtral.server.keys import KeyRing
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from mixtral.tokenizer import load_tokenizer

NUM_PROMPT_TOKENS = 7


def chunk(
    text: str,
    *,
    position: int = 1,
    finish_reason: str | None = None,
    index: int = 0,
    **more: Any,
) -> CompletionChunk:
    """One token of an answer; ``position`` counts from 1."""
    return CompletionChunk(
        text=text,
        token_ids=[1000 + position],
        finish_reason=finish_reason,  # type: ignore[arg-type]
        usage=Usage(prompt_tokens=NUM_PROMPT_TOKENS, completion_tokens=position),
        index=index,
        **more,
    )


def answer_of(*texts: str, finish_reason: str = "stop", index: int = 0) -> list[CompletionChunk]:
    """The pieces of one answer."""
    return [
        chunk(
            text,
            position=i,
            finish_reason=finish_reason if i == len(texts) else None,
            index=index,
        )
        for i, text in enumerate(texts, start=1)
    ]


def tool_call(name: str, arguments: str, call_id: str = "abcDEF123") -> ToolCall:
    return ToolCall(id=call_id, function=FunctionCall(name=name, arguments=arguments))


def choice(token_id: int, logprob: float = -0.5) -> TokenChoice:
    return TokenChoice(
        token_id=token_id,
        token="",
        logprob=logprob,
        top_logprobs={token_id: logprob, token_id + 1: logprob - 1},
    )


def route(token_id: int) -> TokenRoute:
    return TokenRoute(
        token_id=token_id, expert_ids=[[0, 3], [2, 1]], routing_weights=[[0.75, 0.25], [0.5, 0.5]]
    )


@cache
def builder_of(version: str) -> RequestBuilder:
    """The real builder; it has no state but a cache of grammars."""
    tokenizer = load_tokenizer(version)
    return RequestBuilder(tokenizer, vocab_size=tokenizer.vocab_size)


class FakeStream:
    """Gives the pieces it was told, waits where it finds a number of seconds, raises errors."""

    def __init__(self, script: Iterable[CompletionChunk | float | Exception]) -> None:
        self._script = iter(script)
        self._cancelled = asyncio.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        return self

    async def __anext__(self) -> CompletionChunk:
        for item in self._script:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, CompletionChunk):
                await asyncio.sleep(0)
                return item
            with suppress(TimeoutError):
                await asyncio.wait_for(self._cancelled.wait(), item)
                break
        raise StopAsyncIteration


Script = Iterable[CompletionChunk | float | Exception]


@dataclass
class FakeAsyncLLM:
    """Stands for ``AsyncLLM``; the builder of requests is the real one."""

    script: Callable[[Any], Script] = lambda request: answer_of("Hello", " world")
    version: str = "v3"
    max_model_len: int = 4096
    submitted: list[Any] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    error: Exception | None = None
    is_alive: bool = True

    def __post_init__(self) -> None:
        self.requests = builder_of(self.version)
        self.tokenizer = self.requests.tokenizer

    def submit(self, request: Any) -> FakeStream:
        if self.error is not None:
            raise self.error
        self.submitted.append(request)
        self.streams.append(FakeStream(self.script(request)))
        return self.streams[-1]

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=1,
            num_waiting=2,
            num_blocks=100,
            num_used_blocks=25,
            num_cached_blocks=10,
            prefix_hit_tokens=30,
            prefix_query_tokens=120,
            num_preemptions=3,
            num_guessed_tokens=0,
            num_right_guesses=0,
            num_prompt_tokens=120,
            num_output_tokens=44,
            expert_load=[[1, 2], [3, 0]],
        )


def make_service(
    llm: FakeAsyncLLM | None = None, *, embedder: Any = None, **settings: Any
) -> Service:
    server_settings = ServerSettings(**settings)
    return Service(
        llm=llm or FakeAsyncLLM(),  # type: ignore[arg-type]
        model_name="mixtral-test",
        aliases=server_settings.aliases_for("mixtral-test"),
        embedder=embedder,
        settings=server_settings,
        keys=KeyRing(),
        created=1_700_000_000,
    )


def client_of(service: Service) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def asgi_call(
    service: Service,
    body: Any,
    *,
    path: str = "/v1/chat/completions",
    disconnect: asyncio.Event | None = None,
    send: Callable[[dict[str, Any]], Any] | None = None,
) -> list[dict[str, Any]]:
    """Run one request as a server would; the client leaves when ``disconnect`` is set."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": orjson.dumps(body), "more_body": False}]
    gone = disconnect or asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def note(message: dict[str, Any]) -> None:
        sent.append(message)
        if send is not None:
            await send(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    await create_app(service)(scope, receive, note)  # type: ignore[arg-type]
    return sent


def post(service: Service, path: str, body: Any, **options: Any) -> httpx.Response:
    """Send one request on an event loop of its own."""

    async def send() -> httpx.Response:
        async with client_of(service) as client:
            if isinstance(body, bytes):
                headers = {"content-type": "application/json"}
                return await client.post(path, content=body, headers=headers)
            return await client.post(path, json=body, **options)

    return asyncio.run(send())


def get(service: Service, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with client_of(service) as client:
            return await client.request("GET", path, **options)

    return asyncio.run(send())


def chat(content: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {
        "model": "mixtral-test",
        "messages": [{"role": "user", "content": content}],
        **fields,
    }


def events_of(response: httpx.Response) -> Sequence[str]:
    """The data of each event, comments left out."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    lines = [block for block in blocks if not block.startswith(":")]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line.removeprefix("data: ") for line in lines]
