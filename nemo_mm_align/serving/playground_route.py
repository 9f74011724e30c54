"""The playground: a page of static files, served beside the API that it talks to.

The page is the browser's business alone: it knows the server by ``/v1/models`` and ``playground/config.json``, asks it by
the same requests as any other client, and fetches nothing from elsewhere. Its addresses are relative, so that a proxy may
put the server below a path of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

MIME_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",  # pictures that the user adds
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text of a model can never become markup: no policy may make any
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
READS = ["GET", "HEAD"]
REVALIDATED = "no-cache"
"""Kept by the browser, and asked for again by its ETag: a server that was replaced serves its own page at once."""


@dataclass(frozen=True)
class PageFile:
    """A file of the page: what is sent, as which type, under which ETag."""

    data: bytes
    media_type: str
    tag: str


def page_files() -> dict[str, PageFile]:
    """Return the page's files by name, as they lie in the package."""
    found = {}
    for entry in files("nemo_mm_align.serving").joinpath("playground").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in MIME_TYPES:
            data = entry.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[entry.name] = PageFile(data, f"{MIME_TYPES[suffix]}; charset=utf-8", tag)
    return found


def playground_router(
    max_image_bytes: int, max_image_pixels: int, scores: bool = False, models_path: str = "/v1/models"
) -> APIRouter:
    """Return the routes ``/``, ``/playground/<file>`` and ``/playground/config.json``; none of them needs a key.

    Args:
        max_image_bytes, max_image_pixels: of one image; the page scales larger ones down before they are sent.
        scores: whether ``POST /v1/scores`` rates an answer.
        models_path: where the models are listed.
    """
    router, held = APIRouter(include_in_schema=False), page_files()
    config = {
        "models_path": models_path,
        "scores": scores,
        "max_image_bytes": max_image_bytes,
        "max_image_pixels": max_image_pixels,
    }

    @router.api_route("/", methods=READS)
    async def index(request: Request) -> Response:
        return _answer(request, held["index.html"])

    @router.api_route("/playground", methods=READS)
    async def without_slash() -> Response:
        return RedirectResponse("./", headers=HEADERS)

    @router.api_route("/playground/", methods=READS)
    async def with_slash() -> Response:
        return RedirectResponse("../", headers=HEADERS)

    @router.api_route("/playground/config.json", methods=READS)
    async def configuration() -> Response:
        return JSONResponse(config, headers={**HEADERS, "Cache-Control": "no-store"})

    @router.api_route("/playground/{name}", methods=READS)
    async def static(name: str, request: Request) -> Response:
        return _answer(request, _held(held, name))

    return router


def _held(held: Mapping[str, PageFile], name: str) -> PageFile:
    if name not in held or name == "index.html":
        raise HTTPException(404, f"The playground has no file {name[:80]!r}.")
    return held[name]


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**HEADERS, "Cache-Control": REVALIDATED, "ETag": file.tag}
    if file.tag in (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)
