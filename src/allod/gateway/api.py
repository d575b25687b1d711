"""What FastAPI serves, put together: the kernel's routes in one application, each extension's in one of its own."""

from __future__ import annotations

import http
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from allod import __version__
from allod.gateway.door_file import DoorFile
from allod.gateway.errors import answer_to, as_allod_error
from allod.gateway.exchange import check_kind
from allod.gateway.openapi import document
from allod.gateway.routes import (
    backup,
    docs,
    doctor,
    egress,
    events,
    extensions,
    health,
    jobs,
    keys,
    models,
    sessions,
    settings,
    tools,
    vault,
)
from allod.gateway.routes.vault import Unlock
from allod.kernel.house import House
from allod.kernel.metrics import Metrics
from allod.kernel.vault import Vault
from allod.sdk.errors import (
    AllodError,
    BadRequest,
    ExtensionFailed,
    MethodNotAllowed,
    NotFound,
    UnsupportedContentType,
)
from allod.sdk.extension import Check

Examine = Callable[[], Awaitable[Sequence[Check]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the kernel's routes need besides the house. `cookie` is the name of the session's cookie."""

    vault: Vault
    unlock: Unlock
    cookie: Callable[[], str]
    metrics: Metrics
    door_file: DoorFile
    doctor: Examine


def locked(parts: Parts) -> FastAPI:
    """What a server answers whose store is locked; of all else the gateway says that it is locked."""
    app = _empty()
    app.include_router(health.build(None, parts.metrics))
    app.include_router(vault.build_unlock(parts.unlock, parts.cookie))
    app.include_router(vault.build(parts.vault, None))
    app.include_router(docs.build(lambda: document([app])))
    return app


def unlocked(parts: Parts, house: House, of_extensions: Callable[[], Sequence[FastAPI]]) -> FastAPI:
    """The kernel's routes. `of_extensions` are the applications of those that run, for the documentation."""
    app = _empty()
    for router in (
        models.build(house.models),
        health.build(house.models, parts.metrics),
        doctor.build(parts.doctor),
        extensions.build(house),
        settings.build(house),
        jobs.build(house),
        events.build(house),
        tools.build(house),
        keys.build(house),
        sessions.build(house, parts.door_file, parts.cookie),
        vault.build_unlock(parts.unlock, parts.cookie),
        vault.build(parts.vault, house),
        egress.build(house),
        backup.build(parts.vault, house),
        docs.build(lambda: document([app, *of_extensions()])),
    ):
        app.include_router(router)
    return app


def of_extension(name: str, router: APIRouter) -> FastAPI:
    """An extension's routes, at /api/<name>. Its mistakes are answered in its name."""
    app = _empty()
    app.include_router(router, prefix=f"/api/{name}", tags=[name])

    async def failed(request: Request, error: Exception) -> Response:
        as_allod_error(error)  # writes the place to the log
        return _answer(
            ExtensionFailed(
                f"The extension {name!r} made a mistake.",
                fix=f"The server's log says where. Without it: allod extensions disable {name}",
            ),
            request,
        )

    app.add_exception_handler(Exception, failed)
    return app


def _empty() -> FastAPI:
    app = FastAPI(
        title="Allod",
        version=__version__,
        summary="A private AI assistant on your own device.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for kind in (AllodError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = _of_framework(error, request)
    elif isinstance(error, RequestValidationError):
        error = _of_validation(error, request)
    return _answer(as_allod_error(error), request)


def _answer(error: AllodError, request: Request) -> Response:
    status, body, headers = answer_to(error, request.url.path)
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
