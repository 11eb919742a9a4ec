"""``/v1/embeddings``."""

import asyncio
import base64
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.errors import UnsupportedError
from mixtral.server.answers import ClientGone, unless_disconnected
from mixtral.server.body import read_body
from mixtral.server.convert import merged
from mixtral.server.generate import CLIENT_GONE_STATUS
from mixtral.server.logs import record_of
from mixtral.server.openapi import answers, body_of
from mixtral.server.schemas_answers import EmbeddingAnswer
from mixtral.server.schemas_embeddings import EmbeddingRequest
from mixtral.server.service import Service, unknown_model

if TYPE_CHECKING:
    from mixtral.embed import AsyncEmbedder, Embedder, Embeddings


def embedding_router(service: Service) -> APIRouter:
    """Return the route that turns texts into vectors."""
    router = APIRouter(tags=["embeddings"])

    @router.post(
        "/v1/embeddings",
        summary="Turn texts into vectors",
        openapi_extra=body_of(EmbeddingRequest),
        responses=answers(EmbeddingAnswer, errors=(400, 401, 413, 415, 422, 429)),
    )
    async def embeddings(request: Request) -> Response:
        fields = await read_body(request, EmbeddingRequest, service.settings)
        embedder = _embedder_of(service, fields.model)
        dimension = merged(
            "output_dimension", fields.output_dimension, "dimensions", fields.dimensions
        )
        try:
            result = await unless_disconnected(
                embedder.embed(_inputs(fields), dimension=dimension), request.receive, _nothing
            )
        except ClientGone:
            return Response(status_code=CLIENT_GONE_STATUS)
        record_of(request.scope).num_prompt_tokens += sum(result.num_tokens)
        body = await asyncio.to_thread(_body, fields, result, await embedder.embedder())
        return Response(body, media_type="application/json")

    return router


def _embedder_of(service: Service, name: str) -> "AsyncEmbedder":
    if service.embedder is None:
        raise UnsupportedError(
            "this server has no embedding model; start it with --embedding-model, or install the "
            "default one with: pip install 'mixtral[embed]'"
        )
    if name not in service.embedder_names:
        raise unknown_model(name, service.embedder_names)
    return service.embedder


def _inputs(fields: EmbeddingRequest) -> Sequence[str | Sequence[int]]:
    value = fields.input
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [[item for item in value if isinstance(item, int)]]
    return [item for item in value if not isinstance(item, int)]


def _body(fields: EmbeddingRequest, result: "Embeddings", embedder: "Embedder") -> bytes:
    """Return the JSON; runs in a thread, because thousands of vectors take their time."""
    num_tokens = sum(result.num_tokens)
    rows = np.ascontiguousarray(result.vectors, dtype="<f4")
    is_base64 = fields.encoding_format == "base64"
    body: dict[str, Any] = {
        "id": f"embd-{uuid.uuid4().hex}",
        "object": "list",
        "model": fields.model,
        "data": [
            {
                "object": "embedding",
                "embedding": base64.b64encode(row.tobytes()).decode() if is_base64 else row,
                "index": index,
            }
            for index, row in enumerate(rows)
        ],
        "usage": {
            "prompt_tokens": num_tokens,
            "completion_tokens": 0,
            "total_tokens": num_tokens,
        },
        "dimension": int(rows.shape[1]),
        "embedding_model": embedder.name,
    }
    cut = [index for index, is_cut in enumerate(result.is_cut) if is_cut]
    if cut:
        body["truncated"] = cut
        body["warning"] = (
            f"{len(cut)} of {len(rows)} inputs are longer than the {embedder.max_tokens} tokens "
            f"that {embedder.name} reads; what is behind that has no part in their vectors."
        )
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _nothing() -> None:
    """Cancel nothing: the embedder notices that its future was cancelled."""
