"""A server that speaks as much of the API as the playground uses, without a model.

Answers are canned and follow from the question, so that the page can be tried and tested by hand:

    python -m tests.playground.stub_server --port 8090 [--no-rag] [--api-key KEY]
"""

import argparse
import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse

from mixtral.server.playground_routes import playground_router

NUM_LAYERS, NUM_EXPERTS, NUM_EXPERTS_PER_TOK, MAX_MODEL_LEN = 6, 8, 2, 2048

TEXT = """A **mixture of experts** replaces one large feed-forward block by several smaller ones.

1. A *router* scores the experts for each token.
2. The two best compute, and their outputs are added, weighted by `softmax` of the scores.

> No token is dropped, and most weights stay idle.

| model | experts | active |
|---|---:|---:|
| 8x7B | 8 | 2 |
| 8x22B | 8 | 2 |

See https://arxiv.org/abs/2401.04088."""
CODE = '''Here it is:

```python
def is_prime(n: int) -> bool:
    """Whether n has no divisor but 1 and itself."""
    if n < 2:
        return False
    for divisor in range(2, int(n**0.5) + 1):  # larger ones come in pairs
        if n % divisor == 0:
            return False
    return True
```

It takes about the square root of `n` steps.'''
HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>)
![spy](https://example.com/spy.png) <iframe src="https://example.com"></iframe>
<style>body { display: none }</style> <a href="/v1/models" onclick="window.hacked=5">x</a>

```html"><img src=x onerror=window.hacked=6>
<b>code</b>
```
[relative](/v1/models) [good](https://example.com/) <svg onload="window.hacked=7"></svg>"""
DOCUMENT = (
    "Packing 📦 of weights. Eight values of four bits lie in one word of 32 bits, "
    "the first in the lowest bits. Each group of 128 values shares one scale."
)


def create_stub(*, has_rag: bool = True, api_key: str = "", delay_s: float = 0.02) -> FastAPI:
    """Return the application; its state lives in it."""
    app = FastAPI()
    app.include_router(playground_router())
    counts = [[0] * NUM_EXPERTS for _ in range(NUM_LAYERS)]
    documents: dict[str, dict[str, Any]] = {}

    @app.middleware("http")
    async def check_key(request: Request, call_next: Any) -> Response:
        wants_key = api_key and request.url.path.startswith("/v1/")
        if wants_key and request.headers.get("authorization") != f"Bearer {api_key}":
            return refuse(401, "there is no API key; send the header Authorization: Bearer KEY.")
        response: Response = await call_next(request)
        return response

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [card("nano"), card("mistral-small"), card("poems")]}

    @app.get("/v1/status")
    async def status() -> Any:
        return {"num_experts": NUM_EXPERTS, "expert_tokens": counts}

    @app.post("/v1/tokenize")
    async def tokenize(request: Request) -> Any:
        pieces = prompt_pieces(await request.json())
        ids = [token_id(piece) for piece in pieces]
        body = {"object": "tokens", "tokens": ids, "count": len(ids), "pieces": pieces}
        return {**body, "max_model_len": MAX_MODEL_LEN}

    @app.post("/v1/route")
    async def route(request: Request) -> Any:
        pieces = prompt_pieces(await request.json())
        routes = [route_of(piece, counts) for piece in pieces]
        return {
            "object": "routing",
            "tokens": [one["token_id"] for one in routes],
            "pieces": pieces,
            "num_layers": NUM_LAYERS,
            "num_experts": NUM_EXPERTS,
            "num_experts_per_tok": NUM_EXPERTS_PER_TOK,
            "expert_ids": [one["expert_ids"] for one in routes],
            "routing_weights": [one["routing_weights"] for one in routes],
        }

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        question = str(body["messages"][-1].get("content"))
        if "refuse" in question:
            return refuse(400, "temperature is 9; it must be less than or equal to 5.")
        return events(chat_events(body, counts, delay_s))

    add_rag_routes(app, documents if has_rag else None, delay_s)
    return app


def add_rag_routes(
    app: FastAPI, documents: dict[str, dict[str, Any]] | None, delay_s: float
) -> None:
    async def absent() -> Response:
        return refuse(501, "this server has no document store; start it with --rag FOLDER.")

    if documents is None:
        app.add_api_route("/v1/rag/documents", absent, methods=["GET", "POST"])
        return
    documents["d0"] = document_of("d0", "packing.md", DOCUMENT)

    @app.get("/v1/rag/documents")
    async def list_documents() -> Any:
        shown = [{k: v for k, v in one.items() if k != "text"} for one in documents.values()]
        return {"object": "list", "data": shown}

    @app.post("/v1/rag/documents")
    async def add(request: Request) -> Any:
        data = []
        for file in (await request.form()).getlist("file"):
            assert isinstance(file, UploadFile)
            name, text = file.filename or "", (await file.read()).decode("utf-8", "replace")
            if name.endswith(".exe"):
                refused = {
                    "status": "refused",
                    "num_chunks": 0,
                    "reason": "files of this kind are not read",
                }
                data.append({"id": name, "source": name, "title": name, **refused})
                continue
            known = documents.get(name)
            documents[name] = document_of(name, name, text)
            state = (
                "added" if known is None else "unchanged" if known["text"] == text else "updated"
            )
            data.append({**documents[name], "status": state, "reason": None})
        return {"object": "list", "data": data}

    @app.get("/v1/rag/documents/{document_id}")
    async def one(document_id: str) -> Any:
        return documents[document_id]

    @app.delete("/v1/rag/documents/{document_id}")
    async def remove(document_id: str) -> Any:
        del documents[document_id]
        return {"id": document_id, "object": "rag.document", "deleted": True}

    @app.post("/v1/rag/ask")
    async def ask(request: Request) -> Response:
        is_found = "packed" in (await request.json())["question"]
        return events(rag_events(is_found, delay_s))


async def rag_events(is_found: bool, delay_s: float) -> AsyncIterator[Any]:
    cited = "Eight values of four bits lie in one word of 32 bits, the first in the lowest bits."
    start = DOCUMENT.index(cited)
    place = {"document_id": "d0", "source": "/docs/packing.md", "title": "packing.md", "page": None}
    passage = {**place, "id": 1, "start": 0, "end": len(DOCUMENT), "heading": "Packing"}
    passage |= {"text": DOCUMENT, "score": 0.9, "similarity": 0.71}
    passages = [passage] if is_found else []
    answer = "Eight values lie in one 32-bit word, the first in the lowest bits [1]."
    if not is_found:
        answer = "This is not in the documents."
    yield {"object": "rag.passages", "data": passages}
    for piece in re.findall(r"\s*\S+", answer):
        await asyncio.sleep(delay_s)
        yield {"object": "rag.delta", "text": piece}
    citation = {"number": 1, **place, "start": start, "end": start + len(cited), "text": cited}
    citations = [{**citation, "is_supported": True}] if is_found else []
    whole = {"object": "rag.answer", "answer": answer, "is_found": is_found}
    yield {**whole, "citations": citations, "nearest": None, "passages": passages, "usage": None}


async def chat_events(
    body: dict[str, Any], counts: list[list[int]], delay_s: float
) -> AsyncIterator[Any]:
    """Yield the pieces of an answer, with experts and log-probabilities where asked for."""
    envelope = {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
    }
    envelope["model"] = body["model"]

    def piece(index: int, delta: Any, reason: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": reason, **more}
        return {**envelope, "choices": [choice]}

    prompt = prompt_pieces(body)
    num_answers = body.get("n") or 1
    question = str(body["messages"][-1].get("content"))
    for index in range(num_answers):
        yield piece(index, {"role": "assistant", "content": ""})
    await asyncio.sleep(10 * delay_s)
    texts = re.findall(r"\s*\S+", answer_to(body))
    waiting = [route_of(one, counts) for one in prompt] if body.get("routing") else []
    num_tokens = 0
    for text in texts[: body.get("max_tokens") or len(texts)]:
        await asyncio.sleep(delay_s * (20 if "slow" in question else 1))
        for index in range(num_answers):
            more: dict[str, Any] = {"routing": waiting} if body.get("routing") else {}
            if body.get("logprobs"):
                more["logprobs"] = {"content": [{"token": text, "token_id": token_id(text)}]}
            yield piece(index, {"content": text}, **more)
            num_tokens += 1
            waiting = [route_of(text, counts)]
        if "break" in question and num_tokens > 5:
            failure = piece(0, {"content": ""}, "error")
            yield {**failure, "error": {"message": "the engine has stopped."}}
            return
    reason = "stop"
    if wants_call(body):
        call = {"id": "abcDEF123", "type": "function", "index": 0}
        name = body["tools"][0]["function"]["name"]
        call["function"] = {"name": name, "arguments": '{"city": "Paris"}'}
        yield piece(0, {"content": "", "tool_calls": [call]})
        reason, num_tokens = "tool_calls", 18
    for index in range(num_answers):
        last = piece(index, {"content": ""}, reason)
        if index == num_answers - 1:
            last["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": num_tokens}
        yield last


def answer_to(body: dict[str, Any]) -> str:
    last = body["messages"][-1]
    question = str(last.get("content"))
    if wants_call(body):
        return ""
    if last["role"] == "tool":
        return f"The tool says: {question}"
    if body.get("response_format", {}).get("type", "").startswith("json"):
        return '{"name": "Ada", "age": 36}'
    for word, answer in {"prime": CODE, "hostile": HOSTILE, "echo": question}.items():
        if word in question:
            return answer
    return TEXT


def wants_call(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and body["messages"][-1]["role"] == "user"


def prompt_pieces(body: dict[str, Any]) -> list[str]:
    if "messages" not in body:
        text = str(body.get("prompt", body.get("text", "")))
        return ["<s>", *re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)]
    pieces = ["<s>"]
    for message in body["messages"]:
        words = re.findall(r"\s*\w+|\s*[^\w\s]", str(message.get("content")))
        pieces += ["[INST]", *words, "[/INST]"] if message["role"] == "user" else words
    return pieces


def token_id(piece: str) -> int:
    return 3 + hashlib.sha256(piece.encode()).digest()[0] * 100


def route_of(piece: str, counts: list[list[int]]) -> dict[str, Any]:
    """Return experts that follow from the text of a token, so they are always the same."""
    digest = hashlib.sha256(piece.encode()).digest()
    expert_ids, weights = [], []
    for layer in range(NUM_LAYERS):
        first = digest[layer] % NUM_EXPERTS
        second = (first + 1 + digest[layer + 8] % (NUM_EXPERTS - 1)) % NUM_EXPERTS
        share = round(0.5 + digest[layer + 16] / 512, 4)
        expert_ids.append([first, second])
        weights.append([share, round(1 - share, 4)])
        for expert in (first, second):
            counts[layer][expert] += 1
    return {"token_id": token_id(piece), "expert_ids": expert_ids, "routing_weights": weights}


def card(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "capabilities": {"completion_chat": True},
        "description": "Language model nano.",
        "max_context_length": MAX_MODEL_LEN,
        "root": "poems" if name == "poems" else "nano",
        "parent": "nano" if name == "poems" else None,
    }


def document_of(document_id: str, name: str, text: str) -> dict[str, Any]:
    return {
        "object": "rag.document",
        "id": document_id,
        "source": f"/docs/{name}",
        "title": name,
        "num_chunks": 1 + len(text) // 512,
        "num_characters": len(text),
        "num_pages": None,
        "added_at": 0.0,
        "text": text,
    }


def events(source: AsyncIterator[Any]) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield ": ping\n\n"
        async for event in source:
            yield f"data: {json.dumps(event)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


def refuse(status: int, message: str) -> Response:
    return JSONResponse({"object": "error", "message": message}, status_code=status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--no-rag", action="store_true")
    parser.add_argument("--api-key", default="")
    given = parser.parse_args()
    app = create_stub(has_rag=not given.no_rag, api_key=given.api_key)
    uvicorn.run(app, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
