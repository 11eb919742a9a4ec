"""``/v1/status`` and the live page ``/status`` that shows it.

The page is three files of ours without any outside part. Its policy lets the browser run no script
and load no style but those, and talk to this server alone. The page says nothing about anybody and
needs no key; the numbers need the key that ``/metrics`` needs, and the page asks for it.
"""

import os
import time
from collections.abc import Callable, Coroutine
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from mixtral import __version__
from mixtral.server.openapi import answers
from mixtral.server.recent import WINDOW_S
from mixtral.server.schemas_status import ServerStatus
from mixtral.server.service import Service

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No inline script, no inline style, nobody else to talk to; ``data:`` is for the empty icon."""

PAGE_FILES = {
    "/status": ("index.html", "text/html"),
    "/status/charts.js": ("charts.js", "text/javascript"),
    "/status/status.css": ("status.css", "text/css"),
    "/status/status.js": ("status.js", "text/javascript"),
}
"""Paths of the page, with their files in ``status/`` and types."""


def status_router(service: Service) -> APIRouter:
    """Return the route of the numbers, and those of the page that shows them."""
    router = APIRouter(tags=["operation"])

    @router.get(
        "/v1/status",
        summary="Load, speed, memory and experts at this moment",
        responses=answers(ServerStatus, errors=(401,)),
    )
    async def status() -> Response:
        return JSONResponse(read_status(service), headers={"Cache-Control": "no-store"})

    for path, (name, media_type) in PAGE_FILES.items():
        router.add_api_route(path, _file_route(name, media_type), include_in_schema=False)
    return router


def read_status(service: Service) -> dict[str, Any]:
    """Return the fields of ``ServerStatus``."""
    llm, stats = service.llm, service.llm.stats()
    recent = service.metrics.recent.activity()
    looked_up = stats.prefix_query_tokens
    return {
        "object": "server.status",
        "version": __version__,
        "is_ready": llm.is_alive,
        "uptime_s": round(max(0.0, time.time() - service.created), 1),
        "model": service.model_name,
        "adapters": list(service.adapters),
        "format": llm.weight_format,
        "max_model_len": llm.max_model_len,
        "num_layers": llm.config.num_hidden_layers,
        "num_experts": llm.config.num_local_experts,
        "num_experts_per_tok": llm.config.num_experts_per_tok,
        "running_requests": stats.num_running,
        "waiting_requests": stats.num_waiting,
        "window_s": WINDOW_S,
        "input_tokens_per_s": recent.input_tokens_per_s,
        "output_tokens_per_s": recent.output_tokens_per_s,
        "num_waits": recent.num_waits,
        "ttft_p50_s": recent.ttft_p50_s,
        "ttft_p90_s": recent.ttft_p90_s,
        "num_input_tokens": stats.num_prompt_tokens,
        "num_output_tokens": stats.num_output_tokens,
        "kv_blocks": stats.num_blocks,
        "kv_used_blocks": stats.num_used_blocks,
        "kv_cached_blocks": stats.num_cached_blocks,
        "kv_use_ratio": stats.num_used_blocks / max(stats.num_blocks, 1),
        "prefix_cache_hit_ratio": stats.prefix_hit_tokens / looked_up if looked_up else None,
        "memory_bytes": _memory_bytes(),
        "expert_tokens": stats.expert_load or None,
    }


def _memory_bytes() -> int | None:
    """Return the resident set of this process; None where there is no /proc."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _file_route(name: str, media_type: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    content = files("mixtral.server").joinpath("status", name).read_bytes()
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    async def route(request: Request) -> Response:
        if request.scope["raw_path"].endswith(b"/"):
            # The addresses on the page are relative, for proxies that add a prefix.
            return RedirectResponse("../status")
        return Response(content, media_type=media_type, headers=headers)

    return route
