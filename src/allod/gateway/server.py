"""The ASGI application: doors first, then the raw routes of /v1, then an extension's or the kernel's own by FastAPI."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI

from allod.gateway import api
from allod.gateway.api import Parts
from allod.gateway.auth import Doors
from allod.gateway.errors import answer_to, as_allod_error
from allod.gateway.exchange import Exchange, Receive, Scope, Send
from allod.gateway.openapi import document
from allod.gateway.rights import opens_while_locked
from allod.gateway.v1 import ROUTES, Call
from allod.kernel import custody
from allod.kernel.house import House
from allod.kernel.metrics import Metrics
from allod.kernel.server_settings import ServerSettings
from allod.sdk.errors import BodyTooLarge, Locked, MethodNotAllowed, NotFound
from allod.sdk.extension import RESERVED_NAMES

_SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_DRAIN_S = 10


class Gateway:
    """What uvicorn serves. It is locked until `open` is called."""

    def __init__(self, *, doors: Doors, parts: Parts, metrics: Metrics, settings: ServerSettings) -> None:
        self._doors = doors
        self._parts = parts
        self._metrics = metrics
        self._settings = settings
        self._house: House | None = None
        self._kernel = api.locked(parts)
        self._extensions: dict[str, tuple[object, FastAPI]] = {}

    async def open(self, house: House) -> None:
        """Serve all of a house, and its extensions as they come and go."""
        await house.host.open_doors()
        self._kernel = api.unlocked(self._parts, house, self._applications)
        self._house = house
        house.host.changed = self._mount
        await self._mount()

    def leave(self) -> None:
        """End what would otherwise go on for ever: those who listen for events."""
        if self._house is not None:
            self._house.event_stream.close()

    async def _mount(self) -> None:
        """Serve the routes of the extensions that run now."""
        assert self._house is not None
        before = self._extensions
        self._extensions = {
            name: before[name]
            if name in before and before[name][0] is router
            else (router, api.of_extension(name, router))
            for name, router in self._house.host.routers().items()
        }

    def document(self) -> dict[str, Any]:
        """The OpenAPI document of all that is served now."""
        return document([self._kernel, *self._applications()])

    def _applications(self) -> list[FastAPI]:
        return [app for _, (_, app) in sorted(self._extensions.items())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not spoken here")
        exchange = Exchange(scope, receive, self._with_headers(scope, send))
        try:
            if exchange.method == "OPTIONS" and self._doors.cors(exchange.headers):
                await exchange.reply(204, b"", ())
                return
            await self._serve(exchange, scope)
        except Exception as error:
            await self._refuse(exchange, error)

    async def _serve(self, exchange: Exchange, scope: Scope) -> None:
        method, path = exchange.method, exchange.path
        house = self._house
        if house is None and not opens_while_locked(path):
            self._doors.check_address(method, path, exchange.headers)
            _ = self._parts.vault.root  # says that it is locked
            raise Locked("The store is being opened.", fix="Try again in a moment.")
        client = (scope.get("client") or ("127.0.0.1", 0))[0]
        caller = self._doors.enter(method, path, client, exchange.headers)
        route = ROUTES.get(path)
        if route is None or house is None:
            scope["allod.caller"] = caller
            await self._serve_by_fastapi(exchange, scope)
            return
        if method != "POST":
            raise MethodNotAllowed(f"{path} takes POST.", fix="Send a POST request.")
        handler, _ = route
        body = await exchange.read_json(self._max_body_mib)
        call = Call(exchange, body, caller, house.pipeline, house.services)
        await exchange.while_connected(lambda: handler(call))

    async def _serve_by_fastapi(self, exchange: Exchange, scope: Scope) -> None:
        name = exchange.path.split("/", 3)[2] if exchange.path.startswith("/api/") else ""
        of_extension = self._extensions.get(name)
        if (
            of_extension is not None
            and self._house is not None
            and self._house.host.serves(name, of_extension[0])
        ):
            with custody.inside(name):
                await exchange.serve_by(of_extension[1], scope, self._max_body_mib)
            return
        if self._house is not None and name and name not in RESERVED_NAMES:
            self._say_if_stopped(self._house, name)
        await exchange.serve_by(self._kernel, scope, self._max_body_mib)

    def _say_if_stopped(self, house: House, name: str) -> None:
        for entry in house.host.entries():
            if entry.name == name and entry.state != "active":
                raise NotFound(f"The extension {name!r} does not run: {entry.reason}", fix=entry.fix)

    @property
    def _max_body_mib(self) -> int:
        settings = self._settings if self._house is None else self._house.settings.current("server")
        return int(settings.max_body_mib)

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        known = as_allod_error(error)
        route = exchange.path if exchange.path in ROUTES else "other"
        self._metrics.errors.labels(route, known.code).inc()
        if exchange.has_begun:
            raise error
        if isinstance(known, BodyTooLarge):
            await exchange.drain(_DRAIN_S)
        status, body, headers = answer_to(known, exchange.path)
        await exchange.reply(status, body, headers)

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        """`send`, with the headers that every answer has."""
        more = [*_SAFE_HEADERS, *self._doors.cors(dict(scope["headers"]))]

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                message["headers"] = [*headers, *more]
                if all(name != b"cache-control" for name, _ in headers):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        return sending
