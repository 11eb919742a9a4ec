"""/v1/rag: documents in, questions answered, with an embedder and a collection that are faked."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, cast

import httpx
import jsonschema
import numpy as np
import pytest

from mixtral.embed import Embeddings
from mixtral.errors import ConfigError, EngineDead
from mixtral.rag.prompt import NOT_FOUND
from mixtral.server.rag_store import EmbedderBridge, RagStore
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from tests.rag.ask_for_tests import CATS, INT4, FakeCollection
from tests.rag.documents_for_tests import open_at
from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    answer_of,
    asgi_call,
    chunk,
    client_of,
    events_of,
    get,
    make_service,
    post,
)
from tests.server.operation.asgi_for_tests import Guarded

DOCUMENTS = "/v1/rag/documents"
ASK = "/v1/rag/ask"
SEARCH = "/v1/rag/search"
QUESTION = {"question": "Where is the first value?"}


class FakeEmbedder:
    """Stands for ``AsyncEmbedder``; answers on the event loop alone."""

    name = "fake"
    is_loaded = True

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def embed(self, inputs: Any, *, dimension: int | None = None) -> Embeddings:
        await asyncio.sleep(0)
        self.sizes.append(len(inputs))
        vectors = np.zeros((len(inputs), 2), dtype=np.float32)
        vectors[:, 0] = 1
        return Embeddings(
            vectors=vectors, num_tokens=[1] * len(inputs), is_cut=[False] * len(inputs)
        )


class Served:
    """A service with documents."""

    def __init__(self, llm: FakeAsyncLLM | None = None, **settings: Any) -> None:
        self.embedder = FakeEmbedder()
        bridge = EmbedderBridge(cast(Any, self.embedder))
        self.collection = FakeCollection(bridge.embed)
        self.llm = llm or FakeAsyncLLM(script=lambda request: answer_of("the low", " four bits"))
        plain = make_service(self.llm, **settings)
        fields = {name: getattr(plain, name) for name in Service.__dataclass_fields__}
        store = RagStore(cast(Any, self.collection), bridge)
        self.service = Service(**(fields | {"rag": store}))

    def with_documents(self) -> "Served":
        self.collection.texts |= {"packing.md": INT4, "cats.md": CATS}
        return self


@pytest.fixture
def served() -> Served:
    return Served().with_documents()


def upload(service: Service, *files: tuple[str, bytes], field: str = "file") -> httpx.Response:
    parts = [(field, (name, data, "text/plain")) for name, data in files]

    async def send() -> httpx.Response:
        async with client_of(service) as client:
            return await client.post(DOCUMENTS, files=parts)

    return asyncio.run(send())


def call(service: Service, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with client_of(service) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def check(service: Service, name: str, value: Any) -> None:
    """Compare an answer with the server's own description of it."""
    document = get(service, "/openapi.json").json()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


# ---- Documents ---------------------------------------------------------------------------------


def test_uploads_are_added_updated_refused_and_listed() -> None:
    served = Served()
    answer = upload(served.service, ("a.txt", b"One."), ("b.bin", b"\x00")).json()
    check(served.service, "RagAddedList", answer)
    assert [(one["source"], one["status"]) for one in answer["data"]] == [
        ("a.txt", "added"),
        ("b.bin", "refused"),
    ]
    assert answer["data"][1]["reason"] == "it is no text."
    again = upload(served.service, ("a.txt", b"Two.")).json()
    assert again["data"][0]["status"] == "updated"
    listed = get(served.service, DOCUMENTS).json()
    check(served.service, "RagDocumentList", listed)
    assert [one["source"] for one in listed["data"]] == ["a.txt"]


def test_document_is_shown_with_its_text_and_can_be_removed(served: Served) -> None:
    document = get(served.service, DOCUMENTS).json()["data"][1]
    path = f"{DOCUMENTS}/{document['id']}"
    shown = get(served.service, path).json()
    check(served.service, "RagDocumentText", shown)
    assert shown == document | {"text": CATS}
    gone = call(served.service, "DELETE", path).json()
    check(served.service, "RagDeleted", gone)
    assert list(served.collection.texts) == ["packing.md"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_id_is_404(served: Served, method: str) -> None:
    response = call(served.service, method, f"{DOCUMENTS}/nothing")
    assert response.status_code == 404
    assert response.json()["code"] == "unknown_document"
    assert len(served.collection.texts) == 2


def test_uploads_at_the_same_time_are_added_one_after_another() -> None:
    served = Served()
    may_go_on = threading.Event()
    served.collection.on_add = lambda: may_go_on.wait(0.02) and None

    async def send() -> list[httpx.Response]:
        async with client_of(served.service) as client:
            return await asyncio.gather(
                *(client.post(DOCUMENTS, files={"file": (f"{i}.txt", b"x")}) for i in range(5))
            )

    assert {response.status_code for response in asyncio.run(send())} == {200}
    assert len(served.collection.texts) == 5
    assert served.collection.most_adding == 1


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        ({"json": {"file": "x"}}, 415, "content type is application/json; send files as multipart"),
        ({"content": b"x"}, 415, "content type is missing"),
        ({"files": {"other": ("a.txt", b"x")}}, 422, "the form has the field 'other'"),
        ({"files": {"file": ("a.txt", b"x")}, "data": {"tag": "y"}}, 422, "the field 'tag'"),
        ({"files": {"file": (None, b"x")}}, 422, "the form has the field 'file'"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
    ],
)
def test_wrong_uploads_are_refused(options: dict[str, Any], status: int, told: str) -> None:
    served = Served()
    response = call(served.service, "POST", DOCUMENTS, **options)
    assert response.status_code == status, response.text
    assert told in response.json()["message"]
    assert served.collection.texts == {}


# ---- Limits and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [DOCUMENTS, DOCUMENTS + "/", "/v1" + DOCUMENTS])
def test_uploads_have_a_size_limit_of_their_own(path: str) -> None:
    guarded = Guarded(settings=ServerSettings(max_body_mb=0.001, max_upload_mb=0.002))
    assert asyncio.run(guarded.ask(path, body=b"x" * 2000)).status == 200
    answer = asyncio.run(guarded.ask(path, body=b"x" * 2001))
    assert answer.status == 413
    assert "larger than 0.002 MB" in answer.error()["message"]
    assert asyncio.run(guarded.ask(ASK, body=b"x" * 1001)).status == 413


@pytest.mark.parametrize(("method", "path"), [("GET", DOCUMENTS), ("DELETE", DOCUMENTS + "/a")])
def test_documents_need_a_key_where_the_server_has_keys(method: str, path: str) -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    assert asyncio.run(guarded.ask(path, method=method)).status == 401
    assert guarded.app.num_started == 0


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", DOCUMENTS, {}),
        ("GET", DOCUMENTS + "/a", {}),
        ("DELETE", DOCUMENTS + "/a", {}),
        ("POST", DOCUMENTS, {"files": {"file": ("a.txt", b"x")}}),
        ("POST", SEARCH, {"json": {"query": "x"}}),
        ("POST", ASK, {"json": QUESTION}),
    ],
)
def test_server_without_documents_says_how_to_get_them(
    method: str, path: str, options: dict[str, Any]
) -> None:
    response = call(make_service(), method, path, **options)
    assert response.status_code == 501
    assert "start it with --rag FOLDER" in response.json()["message"]


# ---- Questions ---------------------------------------------------------------------------------


def test_search_gives_passages_best_first(served: Served) -> None:
    answer = post(served.service, SEARCH, {"query": "bits", "limit": 1}).json()
    check(served.service, "RagSearchAnswer", answer)
    assert [one["source"] for one in answer["data"]] == ["packing.md"]
    assert len(post(served.service, SEARCH, {"query": "bits"}).json()["data"]) == 2
    assert served.embedder.sizes == [1, 1]


def test_answer_names_its_source(served: Served) -> None:
    answer = post(served.service, ASK, QUESTION).json()
    check(served.service, "RagAnswerBody", answer)
    assert answer["answer"] == "the low four bits"
    assert answer["is_found"] is True
    (citation,) = answer["citations"]
    assert citation["source"] == "packing.md"
    assert INT4[citation["start"] : citation["end"]] == citation["text"]
    assert citation["text"] == "The first is in the low four bits."
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 2


def test_stream_begins_with_the_passages_and_ends_with_the_whole_answer(served: Served) -> None:
    whole = post(served.service, ASK, QUESTION).json()
    *events, done = events_of(post(served.service, ASK, {**QUESTION, "stream": True}))
    pieces = [json.loads(event) for event in events]
    assert done == "[DONE]"
    for piece in pieces:
        check(served.service, "RagPiece", piece)
    assert [piece["object"] for piece in pieces] == [
        *("rag.passages", "rag.delta", "rag.delta", "rag.answer")
    ]
    assert pieces[0]["data"] == whole["passages"]
    assert "".join(piece["text"] for piece in pieces[1:3]) == whole["answer"]
    assert pieces[-1] == whole


def test_passages_are_sent_before_the_model_has_said_anything() -> None:
    served = Served(FakeAsyncLLM(script=lambda request: [60.0, *answer_of("late")]))
    served.with_documents()

    async def scenario() -> list[bytes]:
        gone = asyncio.Event()
        bodies: list[bytes] = []

        async def send(message: dict[str, Any]) -> None:
            if message.get("body"):
                bodies.append(message["body"])
                gone.set()

        body = {**QUESTION, "stream": True}
        async with asyncio.timeout(10):
            await asgi_call(served.service, body, path=ASK, disconnect=gone, send=send)
        return bodies

    first, *others = asyncio.run(scenario())
    assert b'"rag.passages"' in first
    assert not any(b"rag.delta" in other for other in others)
    assert served.llm.streams[0].is_cancelled


@pytest.mark.parametrize("is_stream", [False, True])
def test_model_is_not_asked_where_nothing_is_relevant(served: Served, is_stream: bool) -> None:
    served.collection.similarity = 0.01
    response = post(served.service, ASK, {**QUESTION, "stream": is_stream})
    if is_stream:
        pieces = [json.loads(event) for event in events_of(response)[:-1]]
        assert [piece["object"] for piece in pieces] == ["rag.passages", "rag.delta", "rag.answer"]
        assert pieces[0]["data"] == []
        assert pieces[1]["text"] == NOT_FOUND
        answer = pieces[-1]
    else:
        answer = response.json()
    check(served.service, "RagAnswerBody", answer)
    assert (answer["answer"], answer["is_found"], answer["usage"]) == (NOT_FOUND, False, None)
    assert served.llm.submitted == []


def test_stream_that_fails_says_so_and_ends() -> None:
    served = Served(FakeAsyncLLM(script=lambda request: [chunk("a"), EngineDead("it stopped.")]))
    events = events_of(post(served.with_documents().service, ASK, {**QUESTION, "stream": True}))
    failure = json.loads(events[-2])
    check(served.service, "RagPiece", failure)
    assert failure["error"]["message"] == "it stopped."
    assert events[-1] == "[DONE]"


def test_request_shapes_what_the_model_is_asked(served: Served) -> None:
    fields = {"limit": 1, "temperature": 0.5, "max_tokens": 9, "seed": 3, "model": "mistral-small"}
    assert post(served.service, ASK, {**QUESTION, **fields}).status_code == 200
    assert post(served.service, ASK, QUESTION).status_code == 200
    first, second = served.llm.submitted
    shaped = (first.params.temperature, first.params.max_tokens, first.params.seed)
    assert shaped == (0.5, 9, 3)
    assert (second.params.temperature, second.params.max_tokens) == (0.0, 256)
    prompts = [served.llm.tokenizer.decode(one.prompt_token_ids) for one in (first, second)]
    assert ["black" in prompt for prompt in prompts] == [False, True]
    assert all(len(one.prompt_token_ids) < 4096 - 256 for one in (first, second))


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        (ASK, {}, 422, "question is missing"),
        (ASK, {"question": " \n"}, 400, "question is"),
        (ASK, {**QUESTION, "limit": 0}, 400, "limit is 0"),
        (ASK, {**QUESTION, "limit": 21}, 400, "limit is 21"),
        (ASK, {**QUESTION, "top_p": 1}, 422, "unknown field top_p"),
        (ASK, {**QUESTION, "model": "nope"}, 400, "Invalid model: nope"),
        (ASK, {**QUESTION, "max_tokens": 5000}, 400, "leaves no room for a passage"),
        (SEARCH, {"question": "x"}, 422, "query is missing"),
        (SEARCH, {"query": ""}, 400, "query is"),
    ],
)
def test_wrong_questions_are_refused(
    served: Served, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    response = post(served.service, path, body)
    assert response.status_code == status, response.text
    assert told in response.json()["message"]
    assert served.llm.submitted == []


# ---- The store ---------------------------------------------------------------------------------


def test_long_lists_of_texts_reach_the_embedder_in_rounds() -> None:
    embedder = FakeEmbedder()
    bridge = EmbedderBridge(cast(Any, embedder))

    async def run() -> tuple[int, ...]:
        bridge.loop = asyncio.get_running_loop()
        return (await asyncio.to_thread(bridge.embed, ["a"] * 150)).shape

    assert asyncio.run(run()) == (150, 2)
    assert embedder.sizes == [64, 64, 22]


def test_largest_upload_is_the_servers(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra rag is not installed")
    store = RagStore.open(str(tmp_path), cast(Any, FakeEmbedder()), max_upload_bytes=10)
    (added,) = asyncio.run(store.add([("a.txt", b"x" * 11)]))
    assert (added.status, "limit max_file_bytes is 10" in str(added.reason)) == ("refused", True)
    asyncio.run(store.close())


def test_documents_of_another_embedder_are_refused_before_anything_is_served(
    tmp_path: Path,
) -> None:
    pytest.importorskip("faiss", reason="the extra rag is not installed")
    with open_at(tmp_path, name="other") as collection:
        collection.add_bytes("a.txt", b"text")
    with pytest.raises(ConfigError, match=r"of the embedder other .* opened with fake.*reindex"):
        RagStore.open(str(tmp_path), cast(Any, FakeEmbedder()), max_upload_bytes=1000)


def test_closing_waits_for_what_is_being_added() -> None:
    collection = FakeCollection()
    store = RagStore(cast(Any, collection), EmbedderBridge(cast(Any, FakeEmbedder())))
    begun, may_end = threading.Event(), threading.Event()

    def on_add() -> None:
        begun.set()
        assert may_end.wait(10)
        assert not collection.is_closed

    collection.on_add = on_add

    async def run() -> None:
        adding = asyncio.create_task(store.add([("a.txt", b"x")]))
        await asyncio.to_thread(begun.wait, 10)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        may_end.set()
        await asyncio.gather(adding, closing)

    asyncio.run(run())
    assert collection.is_closed
    assert list(collection.texts) == ["a.txt"]
