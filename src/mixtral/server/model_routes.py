"""``/v1/models``: a card for each name, in Mistral's shape with OpenAI's keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mixtral.engine import SamplingParams
from mixtral.server.errors import ApiError
from mixtral.server.openapi import answers, text_parameter
from mixtral.server.schemas_answers import ModelCard, ModelListAnswer
from mixtral.server.service import Service, unknown_model

CAPABILITIES = (
    "completion_chat",
    "completion_fim",
    "function_calling",
    "fine_tuning",
    "vision",
    "classification",
)
"""What Mistral's cards tell of a model."""

_MODEL_FILTER = text_parameter("model", "query", "Only the card of this name.")
_MODEL_ID = text_parameter("model_id", "path", "A name; it may have slashes.")


def model_router(service: Service) -> APIRouter:
    """Return the routes that list models."""
    router = APIRouter(tags=["models"])

    @router.get(
        "/v1/models",
        summary="List the models",
        openapi_extra=_MODEL_FILTER,
        responses=answers(ModelListAnswer, errors=(400, 401)),
    )
    async def list_models(request: Request) -> Response:
        model, provider = (request.query_params.get(name) for name in ("model", "provider"))
        if provider is not None:
            raise ApiError(
                400,
                f"provider is {provider!r}, which is not supported: all models are this server's. "
                "Leave it out.",
                param="provider",
                code="unsupported",
            )
        cards = await _cards(service)
        data = [card for card in cards if model is None or card["id"] == model]
        return JSONResponse({"object": "list", "data": data})

    @router.get(
        "/v1/models/{model_id:path}",
        summary="Describe a model",
        openapi_extra=_MODEL_ID,
        responses=answers(ModelCard, errors=(401, 404)),
    )
    async def retrieve_model(request: Request) -> Response:
        model_id = request.path_params["model_id"]
        cards = {card["id"]: card for card in await _cards(service)}
        if model_id not in cards:
            raise unknown_model(model_id, list(cards), status=404)
        return JSONResponse(cards[model_id])

    return router


async def _cards(service: Service) -> list[dict[str, Any]]:
    able = {"completion_chat", "function_calling"}
    if _has_fim(service):
        able.add("completion_fim")
    chat = {
        "capabilities": _capabilities(able),
        "description": f"Language model {service.model_name}.",
        "max_context_length": service.llm.max_model_len,
        "default_model_temperature": SamplingParams().temperature,
    }
    cards = _cards_of(service, service.chat_names, chat)
    cards += _adapter_cards(service, chat)
    if service.embedder is not None:
        embedding: dict[str, Any] = {
            "capabilities": _capabilities(set()),
            "description": f"Embedding model {service.embedder_names[0]}.",
            "default_model_temperature": None,
        }
        if service.embedder.is_loaded:
            embedding["max_context_length"] = (await service.embedder.embedder()).max_tokens
        cards += _cards_of(service, service.embedder_names, embedding)
    return cards


def _cards_of(
    service: Service, names: Sequence[str], shared: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "mixtral",
            "name": name,
            "aliases": [other for other in names if other != name],
            "deprecation": None,
            "type": "base",
            "root": names[0],
            "parent": None,
            "permission": [],
            **shared,
        }
        for name in names
    ]


def _adapter_cards(service: Service, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a card per adapter: vLLM's root and parent, and what Mistral's kind of card needs."""
    own = {"type": "fine-tuned", "job": "", "archived": False, "parent": service.model_name}
    return [
        {
            **_cards_of(service, [name], shared)[0],
            **own,
            "root": Path(folder).name,
            "description": f"Adapter {name} of language model {service.model_name}.",
        }
        for name, folder in service.adapters.items()
    ]


def _capabilities(able: set[str]) -> dict[str, bool]:
    return {name: name in able for name in CAPABILITIES}


def _has_fim(service: Service) -> bool:
    return service.llm.requests.has_tokenizer and service.llm.tokenizer.version == "v3"
