"""An extension's routes, asked over HTTP: in this process, or by a client that needs a real port."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

from allod.gateway.errors import answer_to
from allod.sdk.errors import AllodError
from allod.sdk.extension import Extension
from allod.sdk.storage import Store
from tests.unit.gateway.asgi import Answer, receiver, scope


@dataclass
class OwnContext:
    """As much of a context as these extensions ask for."""

    settings: Any
    data_folder: Path
    store: Store | None = None


def application(extension: Extension[Any]) -> FastAPI:
    """The extension's routes where the server mounts them, with the server's own form of errors."""
    app = FastAPI()
    router = extension.router()
    assert router is not None
    app.include_router(router, prefix=f"/api/{extension.manifest.name}")

    @app.exception_handler(AllodError)
    async def refuse(request: Request, error: AllodError) -> Response:
        status, body, headers = answer_to(error, request.url.path)
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    return app


class Asker:
    """A client in the same process, whose paths begin behind /api/<name>."""

    def __init__(self, extension: Extension[Any]) -> None:
        self._app = application(extension)
        self._base = f"/api/{extension.manifest.name}"

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request, `body` as JSON."""
        place, _, query = f"{self._base}{path}".partition("?")
        asked = scope(method, place, {"content-type": "application/json" if body is not None else ""})
        asked["query_string"] = query.encode()
        answer = Answer()
        await self._app(asked, receiver([b"" if body is None else json.dumps(body).encode()]), answer.take)
        return answer

    async def get(self, path: str) -> Answer:
        """GET it."""
        return await self.ask("GET", path)


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of a real server in a thread; its port takes connections from the first moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), name="served")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
