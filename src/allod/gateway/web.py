"""The web side of the server, put together. Imported late: FastAPI alone takes 0.4 s."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from allod.gateway.api import Examine, Parts
from allod.gateway.auth import Doors
from allod.gateway.door_file import DoorFile
from allod.gateway.routes.vault import Unlock
from allod.gateway.server import Gateway
from allod.kernel.api_keys import ApiKeys
from allod.kernel.metrics import Metrics
from allod.kernel.paths import Paths
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.kernel.settings import Settings
from allod.kernel.vault import Vault

_GRACE_S = 3
_KEEP_ALIVE_S = 75


def application(
    *,
    settings: Settings,
    keys: ApiKeys,
    sessions: Sessions,
    vault: Vault,
    unlock: Unlock,
    metrics: Metrics,
    doctor: Examine,
    paths: Paths,
    url: str,
) -> Gateway:
    """The ASGI application, locked until its `open` is called."""

    def cookie() -> str:
        return f"allod-{vault.folder_id}"  # by data folder: other servers of localhost get to see it too

    return Gateway(
        doors=Doors(lambda: settings.current("server"), keys, sessions, cookie),
        parts=Parts(vault, unlock, cookie, metrics, DoorFile(paths.run, url), doctor),
        metrics=metrics,
        settings=settings.current("server"),
    )


async def run(
    application: Gateway,
    settings: ServerSettings,
    sockets: Sequence[socket.socket],
    stop: asyncio.Event,
    announce: Callable[[], None],
) -> None:
    """Serve on `sockets` until `stop` is set; running answers then get a few seconds to end."""
    config = uvicorn.Config(
        application,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    server = _Server(config, announce)
    watch = asyncio.create_task(_stop_with(server, stop, application))
    try:
        await server.serve(sockets=list(sockets))
    finally:
        watch.cancel()


async def _stop_with(server: uvicorn.Server, stop: asyncio.Event, application: Gateway) -> None:
    await stop.wait()
    application.leave()
    server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: app.py has the only ones."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._announce()
