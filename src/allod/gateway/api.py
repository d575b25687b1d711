"""The routes that FastAPI serves: model lists, health, metrics, doctor, keys, docs, and each extension's own."""

from __future__ import annotations

import contextlib
import http
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from allod import __version__
from allod.gateway.errors import answer_to, as_allod_error
from allod.gateway.exchange import check_kind
from allod.gateway.v1 import ROUTES
from allod.kernel.api_keys import ApiKey, ApiKeys
from allod.kernel.metrics import Metrics
from allod.kernel.models import DEFAULT_NAMES
from allod.sdk.context import Models
from allod.sdk.engine import ModelCard
from allod.sdk.errors import (
    AllodError,
    BadRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    UnsupportedContentType,
)
from allod.sdk.extension import Check

_CSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
_ASSETS = {"docs.js": "text/javascript", "docs.css": "text/css"}


class NewKey(BaseModel):
    """The body of POST /api/keys."""

    name: str = Field(min_length=1, max_length=100, description="What the key is for.")


def build(
    *,
    models: Models,
    keys: ApiKeys,
    metrics: Metrics,
    doctor: Callable[[], Awaitable[Sequence[Check]]],
    routers: Mapping[str, APIRouter],
) -> FastAPI:
    """The FastAPI application. `routers` are mounted at /api/<name>."""
    app = FastAPI(
        title="Allod",
        version=__version__,
        summary="A private AI assistant on your own device.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.include_router(_models(models))
    app.include_router(_health(models, metrics))
    app.include_router(_kernel(keys, doctor))
    app.include_router(_docs(app))
    for name, router in routers.items():
        app.include_router(router, prefix=f"/api/{name}", tags=[name])
    for kind in (AllodError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, HTTPException):
        error = _of_framework(error, request)
    elif isinstance(error, RequestValidationError):
        error = _of_validation(error, request)
    status, body, headers = answer_to(as_allod_error(error), path)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


def _of_validation(error: RequestValidationError, request: Request) -> AllodError:
    first = error.errors()[0]
    try:
        check_kind(request.headers.get("content-type", "application/json").encode())
    except UnsupportedContentType as wrong:
        return wrong
    if first["type"] == "json_invalid":
        return BadRequest("The body is not valid JSON.", fix="Correct it.")
    param = ".".join(str(part) for part in first["loc"][1:])
    said = f"{param}: {first['msg']}." if param else "A body is needed."
    return BadRequest(said, fix="See /docs for what it may be.", param=param or None)


def _of_framework(error: HTTPException, request: Request) -> AllodError:
    place = request.url.path[:100]
    if error.status_code == 405:
        return MethodNotAllowed(f"{place} does not take {request.method}.", fix="See /docs.")
    if error.status_code == 404:
        return NotFound(f"Nothing is at {place}.", fix="See /docs for what there is.")
    return FrameworkRefusal(error)


class FrameworkRefusal(AllodError):
    """An extension's refusal in its framework's own words, with its own status."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(str(error.detail))
        self.status = error.status_code  # type: ignore[misc]
        self.code = http.HTTPStatus(error.status_code).name.lower()  # type: ignore[misc]


def _models(models: Models) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["OpenAI"])
    started = int(time.time())

    def described(card: ModelCard, name: str = "") -> dict[str, Any]:
        facts = {
            "name": card.name,
            "state": models.state(card.id),
            "context_tokens": card.context_tokens,
            "size_bytes": card.size_bytes,
            "quantization": card.quantization,
            "architecture": card.architecture,
            "parameters": card.parameters,
            "capabilities": list(card.capabilities),
            "problem": card.problem,
            **({"alias_of": card.id} if name else {}),
        }
        return {
            "id": name or card.id,
            "object": "model",
            "created": started,
            "owned_by": card.engine,
            "allod": facts,
        }

    @router.get("")
    async def list_models() -> dict[str, Any]:
        """All models known, loaded or not; `default` and `jan` stand for the default model."""
        listed = [described(card) for card in await models.cards()]
        with contextlib.suppress(ModelNotFound):  # all there are may be damaged
            listed += [described(await models.find(name), name) for name in DEFAULT_NAMES]
        return {"object": "list", "data": listed}

    @router.get("/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        """One model."""
        card = await models.find(model)
        return described(card, model if model.casefold() in DEFAULT_NAMES else "")

    return router


def _health(models: Models, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["Operation"])

    @router.get("/health")
    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok", "version": __version__}

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """The server has a model that it can answer with; 503 if not."""
        try:
            default = await models.find("default")
        except NotFound as error:
            return JSONResponse({"status": "no model", "detail": error.message}, 503)
        return JSONResponse({"status": "ok", "default": default.id, "state": models.state(default.id)})

    @router.get("/metrics", response_class=Response)
    async def numbers() -> Response:
        """All metrics, in Prometheus' text format."""
        for row in models.report():
            metrics.memory.labels(str(row["model"])).set(float(str(row["memory_bytes"])))
        return Response(metrics.text(), media_type=metrics.content_type)

    return router


def _kernel(keys: ApiKeys, doctor: Callable[[], Awaitable[Sequence[Check]]]) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["Kernel"])

    def described(key: ApiKey) -> dict[str, Any]:
        return {"id": key.id, "name": key.name, "created_at": key.created_at}

    @router.get("/doctor")
    async def examine() -> dict[str, Any]:
        """What this machine has, and what to do about each problem."""
        return {"checks": [asdict(check) for check in await doctor()]}

    @router.get("/keys")
    async def list_keys() -> dict[str, Any]:
        """All API keys, without their secrets."""
        return {"keys": [described(key) for key in keys.all()]}

    @router.post("/keys", status_code=201)
    async def create_key(body: NewKey) -> dict[str, Any]:
        """A new API key. Its secret is shown this once."""
        key, secret = keys.create(body.name)
        return {**described(key), "key": secret}

    @router.delete("/keys/{key_id}", status_code=204)
    async def remove_key(key_id: str) -> None:
        """Forget an API key, at once."""
        keys.remove(key_id)

    return router


def _docs(app: FastAPI) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    assets = files("allod.gateway") / "docs"

    @router.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(openapi_of(app))

    @router.get("/docs")
    async def page() -> HTMLResponse:
        text = (assets / "docs.html").read_text("utf-8")
        return HTMLResponse(text, headers={"content-security-policy": _CSP})

    @router.get("/docs/{name}")
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise NotFound("Nothing is here.", fix="See /docs.")
        return Response((assets / name).read_bytes(), media_type=_ASSETS[name])

    return router


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's routes and the raw ones of /v1."""
    document = json.loads(json.dumps(app.openapi()))
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for path, (handler, body) in ROUTES.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        document["paths"].setdefault(path, {})["post"] = {
            "tags": ["OpenAI"],
            "summary": inspect.getdoc(handler),
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": {"description": "The answer: JSON, or server-sent events where `stream` is true."},
                "default": {"description": 'An error: {"error": {message, type, param, code, source}}.'},
            },
        }
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own, which is never sent: see _of_validation
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return dict(document)
