"""The ASGI application: doors first, then the raw routes of /v1, then FastAPI for the rest."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI

from allod.gateway.auth import Doors
from allod.gateway.errors import answer_to, as_allod_error
from allod.gateway.exchange import Exchange, Receive, Scope, Send
from allod.gateway.v1 import ROUTES, Call
from allod.kernel.metrics import Metrics
from allod.kernel.pipeline import Pipeline
from allod.sdk.errors import BodyTooLarge, MethodNotAllowed

_SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_DRAIN_S = 10


class Gateway:
    """What uvicorn serves."""

    def __init__(
        self, *, doors: Doors, pipeline: Pipeline, metrics: Metrics, rest: FastAPI, max_body_mib: int
    ) -> None:
        self._doors = doors
        self._pipeline = pipeline
        self._metrics = metrics
        self._rest = rest
        self._max_body_mib = max_body_mib

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not spoken here")
        exchange = Exchange(scope, receive, self._with_headers(scope, send))
        try:
            if exchange.method == "OPTIONS" and self._doors.cors(exchange.headers):
                await exchange.reply(204, b"", ())
                return
            client = (scope.get("client") or ("127.0.0.1", 0))[0]
            caller = self._doors.enter(exchange.path, client, exchange.headers)
            route = ROUTES.get(exchange.path)
            if route is None:
                scope["allod.caller"] = caller
                await exchange.serve_by(self._rest, scope, self._max_body_mib)
                return
            if exchange.method != "POST":
                raise MethodNotAllowed(f"{exchange.path} takes POST.", fix="Send a POST request.")
            handler, _ = route
            body = await exchange.read_json(self._max_body_mib)
            call = Call(exchange, body, caller, self._pipeline)
            await exchange.while_connected(lambda: handler(call))
        except Exception as error:
            await self._refuse(exchange, error)

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
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        return sending
