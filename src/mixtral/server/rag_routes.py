"""``/v1/rag``: documents that are uploaded, searched and asked. docs/rag.md tells the whole way.

Without ``--rag`` the paths are there and say how to get them, with 501.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from mixtral.engine import SamplingParams
from mixtral.errors import UnsupportedError
from mixtral.rag.ask import DEFAULT_LIMIT, Ask, RagAnswer, not_found, room_for_prompt
from mixtral.rag.prompt import RagPrompt
from mixtral.request import Request as EngineRequest
from mixtral.server.body import read_body
from mixtral.server.errors import ApiError
from mixtral.server.generate import Generation, respond
from mixtral.server.openapi import answers, body_of, stream_answers, text_parameter, upload_body
from mixtral.server.render_rag import RagRenderer, added_json, document_json, passages_json
from mixtral.server.schemas_rag import (
    RagAddedList,
    RagAnswerBody,
    RagAskRequest,
    RagDeleted,
    RagDocumentList,
    RagDocumentText,
    RagPiece,
    RagSearchAnswer,
    RagSearchRequest,
)
from mixtral.server.service import Service
from mixtral.server.sse import DONE, EventResponse, event
from mixtral.server.submit import Caller, submit

if TYPE_CHECKING:
    from mixtral.rag import Passage
    from mixtral.server.rag_store import RagStore

MAX_FILES = 100
"""Files of one upload."""

FILE_FIELD = "file"
"""The field of an upload that files are in."""

_DOCUMENT_ID = text_parameter("id", "path", "Id of a document, 16 hexadecimal digits.")


def rag_router(service: Service) -> APIRouter:
    """Return the routes over the documents of the server."""
    router = APIRouter(tags=["documents"])
    _add_document_routes(router, service)
    _add_question_routes(router, service)
    return router


def _add_document_routes(router: APIRouter, service: Service) -> None:
    @router.get(
        "/v1/rag/documents",
        summary="List the documents",
        responses=answers(RagDocumentList, errors=(401, 501)),
    )
    async def list_documents() -> Response:
        documents = await _store(service).documents()
        data = [document_json(document) for document in documents]
        return JSONResponse({"object": "list", "data": data})

    @router.post(
        "/v1/rag/documents",
        summary="Add documents, or new versions of them",
        openapi_extra=upload_body(FILE_FIELD),
        responses=answers(RagAddedList, errors=(400, 401, 408, 413, 415, 422, 429, 501)),
    )
    async def add_documents(request: Request) -> Response:
        store = _store(service)
        added = await store.add(await _read_files(request))
        return JSONResponse({"object": "list", "data": [added_json(one) for one in added]})

    @router.get(
        "/v1/rag/documents/{id}",
        summary="Show a document with its text",
        openapi_extra=_DOCUMENT_ID,
        responses=answers(RagDocumentText, errors=(401, 404, 501)),
    )
    async def show_document(request: Request) -> Response:
        document, text = await _store(service).document(request.path_params["id"])
        body = document_json(document) | {"text": text}
        # In a thread: a book has megabytes of text.
        raw = await asyncio.to_thread(orjson.dumps, body)
        return Response(raw, media_type="application/json")

    @router.delete(
        "/v1/rag/documents/{id}",
        summary="Remove a document",
        openapi_extra=_DOCUMENT_ID,
        responses=answers(RagDeleted, errors=(401, 404, 501)),
    )
    async def remove_document(request: Request) -> Response:
        document_id = request.path_params["id"]
        await _store(service).remove(document_id)
        return JSONResponse({"id": document_id, "object": "rag.document", "deleted": True})


def _add_question_routes(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/rag/search",
        summary="Find passages",
        openapi_extra=body_of(RagSearchRequest),
        responses=answers(RagSearchAnswer, errors=(400, 401, 413, 415, 422, 429, 501)),
    )
    async def search(request: Request) -> Response:
        fields = await read_body(request, RagSearchRequest, service.settings)
        limit = fields.limit or DEFAULT_LIMIT
        passages = await _store(service).search(fields.query, limit=limit)
        return JSONResponse({"object": "list", "data": [asdict(p) for p in passages]})

    @router.post(
        "/v1/rag/ask",
        summary="Answer a question from the documents",
        openapi_extra=body_of(RagAskRequest),
        responses=stream_answers(RagAnswerBody, RagPiece, more_errors=(501,)),
    )
    async def ask(request: Request) -> Response:
        fields = await read_body(request, RagAskRequest, service.settings)
        return await _ask(request, fields, service)


async def _ask(request: Request, fields: RagAskRequest, service: Service) -> Response:
    adapter = service.find_adapter(fields.model or service.model_name)
    caller = Caller.of(request.scope, None)
    settings = Ask()
    found = await _store(service).search(fields.question, limit=fields.limit or DEFAULT_LIMIT)
    passages = settings.relevant(fields.question, found)
    is_stream = bool(fields.stream)
    if not passages:
        return _unasked(not_found(), service) if is_stream else JSONResponse(not_found().as_dict())
    prompt, built = await asyncio.to_thread(
        _build, service, fields, settings, passages, caller, adapter
    )
    return await respond(
        request,
        Generation(
            renderer=RagRenderer(settings, prompt, fields.question),
            prompt_tokens=[len(built.prompt_token_ids)],
            # Last: what fails above must not leave a request at the engine.
            source=submit(service.llm, [built], max_tokens=built.params.max_tokens),
            is_stream=is_stream,
            include_usage=is_stream,
            opening=passages_json(prompt.passages),
        ),
        service,
    )


def _build(
    service: Service,
    fields: RagAskRequest,
    settings: Ask,
    passages: "Sequence[Passage]",
    caller: Caller,
    adapter: str | None,
) -> tuple[RagPrompt, EngineRequest]:
    """Fit the prompt and tokenise it; runs in a thread."""
    llm = service.llm
    room = room_for_prompt(llm.max_model_len, fields.max_tokens)
    prompt = settings.prompt(
        fields.question,
        passages,
        count_tokens=lambda messages: len(llm.tokenizer.encode_chat(messages)),
        max_prompt_tokens=room,
    )
    params = SamplingParams(
        temperature=fields.temperature or 0.0,
        max_tokens=llm.max_model_len - room,
        seed=fields.seed,
    )
    built = llm.requests.chat(
        prompt.messages, params, priority=caller.priority, owner=caller.owner, adapter=adapter
    )
    return prompt, built


def _unasked(answer: RagAnswer, service: Service) -> Response:
    """Return the stream of an answer that took no model."""

    async def events() -> AsyncGenerator[bytes, None]:
        yield event(passages_json(answer.passages))
        yield event({"object": "rag.delta", "text": answer.text})
        yield event(answer.as_dict())
        yield DONE

    return EventResponse(
        events(),
        cancel=_nothing,
        ping_s=service.settings.keepalive_s,
        write_timeout_s=service.settings.write_timeout_s,
    )


async def _read_files(request: Request) -> list[tuple[str, bytes]]:
    """Return names and bytes of the files of an upload.

    Raises:
        ApiError: 415 for another content type, 400 or 422 for the form.
        UnsupportedError: The extra is not installed.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "multipart/form-data":
        raise ApiError(
            415,
            f"content type is {content_type or 'missing'}; send files as multipart/form-data in "
            f"the field {FILE_FIELD}, as curl -F {FILE_FIELD}=@manual.pdf does.",
        )
    if find_spec("python_multipart") is None:
        raise UnsupportedError(
            "uploads need python-multipart, which is not installed: pip install 'mixtral[rag]'"
        )
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FILES) as form:
        for name, value in form.multi_items():
            if name != FILE_FIELD or not isinstance(value, UploadFile):
                raise _wrong_field(name)
        files = [value for value in form.getlist(FILE_FIELD) if isinstance(value, UploadFile)]
        if not files:
            raise ApiError(
                422, f"{FILE_FIELD} is missing; this request needs it.", param=FILE_FIELD
            )
        return [(file.filename or "", await file.read()) for file in files]


def _wrong_field(name: str) -> ApiError:
    message = f"the form has the field {name!r}; it may have files alone, in fields {FILE_FIELD!r}."
    detail: Mapping[str, Any] = {
        "loc": ["body", name],
        "msg": "unknown field",
        "type": "extra_forbidden",
    }
    return ApiError(422, message, param=name, detail=[detail])


def _store(service: Service) -> "RagStore":
    if service.rag is None:
        raise ApiError(
            501,
            "this server has no documents; start it with --rag FOLDER, a folder that mixtral rag "
            "add has made, or a new one.",
            type="not_implemented_error",
            code="not_implemented",
        )
    return service.rag


def _nothing() -> None:
    """Stop nothing: no model was asked."""
