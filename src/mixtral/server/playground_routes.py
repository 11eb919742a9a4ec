"""``/``: the playground, a page that shows what this server can do.

The page is a folder of plain files, ``playground/``: HTML, style sheets, ES modules, and three
vendored libraries with their licences. They are read once, when the router is made, and answered
from a table of names; so no path of a request ever reaches the file system.

The policy lets the browser load scripts, styles and pictures from this server alone, talk to
nobody else, and run nothing that stands inside the page; trusted types forbid scripts to write
HTML that DOMPurify has not cleaned (W3C, Content Security Policy Level 3 and Trusted Types).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
"""What the browser may do for the page."""

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
"""Suffix of a file -> its type; files with other suffixes are not served."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Names stay when contents change, so the browser asks each time and mostly hears 304.
    "Cache-Control": "no-cache",
}
"""Headers of every file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    """Its bytes."""
    content_type: str
    """Its type, with the charset."""
    etag: str
    """Quoted; the same bytes have the same one."""


def playground_router() -> APIRouter:
    """Return the routes of the page and its files.

    Raises:
        OSError: A file of the page cannot be read.
    """
    router = APIRouter(include_in_schema=False)
    page_files = read_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _respond(request, page_files["index.html"])

    @router.api_route("/playground", methods=["GET", "HEAD"])
    async def other_name() -> Response:
        return RedirectResponse("/")

    @router.api_route("/playground/{name:path}", methods=["GET", "HEAD"])
    async def page_file(request: Request, name: str) -> Response:
        file = page_files.get(name)
        if file is None:
            raise HTTPException(404)
        return _respond(request, file)

    return router


def read_files() -> dict[str, PageFile]:
    """Return every file of the page under its path below ``playground/``.

    Raises:
        OSError: A file cannot be read.
    """
    folder = files("mixtral.server").joinpath("playground")
    return {name: _read(name, content) for name, content in _walk(folder, "")}


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _walk(entry, name + "/")
        elif _suffix(name) in CONTENT_TYPES:
            yield name, entry.read_bytes()


def _read(name: str, content: bytes) -> PageFile:
    return PageFile(
        content=content,
        content_type=CONTENT_TYPES[_suffix(name)],
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[last.rindex(".") :] if "." in last else ""


def _respond(request: Request, file: PageFile) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in _if_none_match(request).split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "Content-Type": file.content_type})


def _if_none_match(request: Request) -> str:
    return request.headers.get("if-none-match", "")
