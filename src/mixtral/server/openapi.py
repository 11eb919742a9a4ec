"""The OpenAPI document: what FastAPI cannot see, because the routes read their bodies themselves.

Routes declare the classes of their bodies and answers with ``body_of`` and ``answers``; these leave
references, and ``document`` adds the schemas that they point to.
"""

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mixtral import __version__
from mixtral.server.schemas_answers import (
    EmbeddingAnswer,
    ErrorAnswer,
    ModelCard,
    ModelListAnswer,
    StatusAnswer,
    TextAnswer,
    TextCompletionAnswer,
    TextCompletionPiece,
    TokensAnswer,
)
from mixtral.server.schemas_answers_chat import ChatCompletionAnswer, ChatCompletionPiece
from mixtral.server.schemas_chat import ChatCompletionRequest
from mixtral.server.schemas_embeddings import EmbeddingRequest
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
from mixtral.server.schemas_routing import RouteAnswer, RouteRequest
from mixtral.server.schemas_status import ServerStatus
from mixtral.server.schemas_text import (
    CompletionRequest,
    DetokenizeRequest,
    FIMCompletionRequest,
    TokenizeRequest,
)

DESCRIPTION = (
    "Mixtral behind the API that Mistral's and OpenAI's clients speak. docs/api.md says which "
    "field is whose and what it means."
)
"""The text at the top of the document."""

REFERENCE = "#/components/schemas/{model}"
"""Where schemas are."""

_SCHEMAS: tuple[type[BaseModel], ...] = (
    ChatCompletionAnswer,
    ChatCompletionPiece,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingAnswer,
    EmbeddingRequest,
    ErrorAnswer,
    FIMCompletionRequest,
    ModelCard,
    ModelListAnswer,
    RagAddedList,
    RagAnswerBody,
    RagAskRequest,
    RagDeleted,
    RagDocumentList,
    RagDocumentText,
    RagPiece,
    RagSearchAnswer,
    RagSearchRequest,
    RouteAnswer,
    RouteRequest,
    ServerStatus,
    StatusAnswer,
    TextAnswer,
    TextCompletionAnswer,
    TextCompletionPiece,
    TokenizeRequest,
    TokensAnswer,
)

Responses = dict[int | str, dict[str, Any]]


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """Return FastAPI's ``openapi_extra`` for a JSON body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference(schema)}},
        }
    }


def upload_body(field: str) -> dict[str, Any]:
    """Return FastAPI's ``openapi_extra`` for a form with one or more files in one field."""
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    schema = {
        "type": "object",
        "properties": {field: {"type": "array", "items": file, "description": "Files."}},
        "required": [field],
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def text_parameter(name: str, place: Literal["path", "query"], description: str) -> dict[str, Any]:
    """Return FastAPI's ``openapi_extra`` for a text in the path, or one that the query may have."""
    parameter = {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": {"type": "string"},
        "description": description,
    }
    return {"parameters": [parameter]}


def answers(schema: type[BaseModel], *, errors: Sequence[int] = (400, 401, 422, 429)) -> Responses:
    """Return FastAPI's ``responses`` for a JSON answer and its errors."""
    return {200: _content(schema, "The answer."), **error_answers(errors)}


def stream_answers(
    whole: type[BaseModel], piece: type[BaseModel], *, more_errors: Sequence[int] = ()
) -> Responses:
    """Return ``responses`` for an answer that may also come as a stream of pieces."""
    responses = answers(whole, errors=(400, 401, 408, 413, 415, 422, 429, *more_errors, 503))
    json_text = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": _reference(piece),
        "description": "A piece as JSON.",
    }
    data = {"anyOf": [json_text, {"const": "[DONE]", "description": "The end."}]}
    responses[200]["content"]["text/event-stream"] = {
        "itemSchema": {"type": "object", "properties": {"data": data}, "required": ["data"]}
    }
    return responses


def error_answers(statuses: Sequence[int]) -> Responses:
    """Return ``responses`` for errors alone."""
    return {status: _content(ErrorAnswer, "The request was refused.") for status in statuses}


def document(
    app: FastAPI, *, chat_names: Sequence[str], embedder_names: Sequence[str]
) -> dict[str, Any]:
    """Return the document with the schemas of all bodies and answers.

    Args:
        app: Its routes are described.
        chat_names: What the field ``model`` may be where text is made.
        embedder_names: What it may be where vectors are made; empty without an embedder.
    """
    result = get_openapi(
        title=app.title, version=__version__, description=DESCRIPTION, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(schema, "validation") for schema in _SCHEMAS], ref_template=REFERENCE
    )
    components = result.setdefault("components", {})
    components["schemas"] = dict(sorted(definitions["$defs"].items()))
    for schema in (ChatCompletionRequest, CompletionRequest, FIMCompletionRequest):
        components["schemas"][schema.__name__]["properties"]["model"]["enum"] = list(chat_names)
    if embedder_names:
        model = components["schemas"][EmbeddingRequest.__name__]["properties"]["model"]
        model["enum"] = list(embedder_names)
    components["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer"}}
    result["security"] = [{"ApiKey": []}, {}]
    return result


def _content(schema: type[BaseModel], description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _reference(schema)}},
    }


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=schema.__name__)}
