"""Pages that the server itself brings: the API's description, and the first page of a browser."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse

from allod.sdk.errors import NotFound

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KINDS = {"js": "text/javascript", "css": "text/css"}
_HEADERS = {"content-security-policy": _CSP, "cache-control": "no-store"}


def build(openapi: Callable[[], dict[str, Any]]) -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False)
    folder = files("allod.gateway")

    def page(name: str) -> HTMLResponse:
        return HTMLResponse((folder / name / f"{name}.html").read_text("utf-8"), headers=_HEADERS)

    def asset(place: str, name: str) -> Response:
        kind = _KINDS.get(name.rpartition(".")[2])
        file = folder / place / name
        if kind is None or "/" in name or not file.is_file():
            raise NotFound("Nothing is here.", fix="See /docs.")
        return Response(file.read_bytes(), media_type=kind, headers=_HEADERS)

    @router.get("/openapi.json")
    async def document() -> JSONResponse:
        return JSONResponse(openapi())

    @router.get("/docs")
    async def docs_page() -> HTMLResponse:
        return page("docs")

    @router.get("/docs/{name}")
    async def docs_asset(name: str) -> Response:
        return asset("docs", name)

    @router.get("/")
    async def first_page() -> HTMLResponse:
        return page("page")

    @router.get("/page/{name}")
    async def page_asset(name: str) -> Response:
        return asset("page", name)

    return router
