"""Builds the server from its parts and runs it. The only place that knows them all; nothing is decided here.

The order matters for the first answer: the default model's worker is started before the web framework is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod import __version__
from allod.gateway.listen import listen, urls
from allod.kernel import log
from allod.kernel.api_keys import ApiKeys
from allod.kernel.doctor import Doctor
from allod.kernel.events import InProcessEvents
from allod.kernel.host import ExtensionContext, Host
from allod.kernel.memory import free_memory
from allod.kernel.metrics import Metrics
from allod.kernel.models import ModelDesk, ModelTable
from allod.kernel.paths import Paths, data_folder
from allod.kernel.pipeline import Pipeline
from allod.kernel.processes import ChildProcesses, start_server
from allod.kernel.scheduler import Scheduler
from allod.kernel.settings import ServerSettings, Settings
from allod.sdk.errors import AllodError

start_for_client = start_server
"""Starts a server for a command's own time."""

_log = logging.getLogger("allod")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says; None leaves it to the settings.

    `announce` is called with the URLs once they answer.
    """

    hosts: Sequence[str] | None = None
    port: int | None = None
    model: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    stop_with_stdin: bool = False
    quiet: bool = False
    announce: Callable[[Sequence[str]], None] | None = None

    def overrides(self) -> dict[str, dict[str, Any]]:
        """As settings, which win over all others."""
        server = {
            "host": list(self.hosts) if self.hosts else None,
            "port": self.port,
            "tls_certificate": self.tls_cert,
            "tls_key": self.tls_key,
            "default_model": self.model.stem if self.model else None,
        }
        llamacpp = {"files": [self.model.absolute()]} if self.model else {}
        return {
            "server": {name: value for name, value in server.items() if value is not None},
            "llamacpp": llamacpp,
        }


def serve(options: ServeOptions) -> int:
    """Run the server until it is told to stop. Returns the exit code. Raises StartFailed."""
    log.configure(logging.WARNING if options.quiet else logging.INFO)
    if sys.platform == "win32":
        asyncio.run(_serve(options))
    else:
        import uvloop

        uvloop.run(_serve(options))
    return 0


async def _serve(options: ServeOptions) -> None:
    stop = _stop_signal(options.stop_with_stdin)
    paths = Paths(data_folder())
    paths.create()
    settings = Settings(paths.config, options.overrides())
    server_settings = settings.load("server", ServerSettings)
    keys = ApiKeys(paths.api_keys)

    events = InProcessEvents()
    metrics = Metrics()
    processes = ChildProcesses(paths.sockets(), allow_unwalled=server_settings.allow_unwalled_workers)
    scheduler = Scheduler(
        free_bytes=free_memory(server_settings.memory_budget_mib),
        events=events,
        metrics=metrics,
        max_waiting=server_settings.max_waiting,
        keep_alive_s=server_settings.keep_alive_s,
    )
    table = ModelTable(lambda: host.engines(), server_settings.default_model)
    desk = ModelDesk(table, scheduler)

    def context(name: str, own: Any) -> ExtensionContext:
        logger = logging.getLogger(f"allod.{name}")
        return ExtensionContext(own, paths.data, events, processes, desk, logger)

    host = Host(settings, context)
    sockets = listen(server_settings, keys)
    addresses = urls(sockets, tls=server_settings.tls_certificate is not None)
    try:
        await host.start()
        scheduler.start()
        preload = asyncio.create_task(_preload(desk)) if server_settings.preload else None
        web = await asyncio.to_thread(importlib.import_module, "allod.gateway.web")
        doctor = Doctor(paths, addresses, keys, host, processes)
        routers = {
            each.manifest.name: router for each in host.active if (router := each.router()) is not None
        }
        application = web.application(
            settings=server_settings,
            keys=keys,
            pipeline=Pipeline(
                models=table, scheduler=scheduler, stages=host.stages(), events=events, metrics=metrics
            ),
            models=desk,
            metrics=metrics,
            doctor=doctor.examine,
            routers=routers,
        )
        _spare_garbage_collector()
        with _server_file(paths, addresses, keys.create_own()):
            await web.run(application, server_settings, sockets, stop, lambda: _announce(options, addresses))
        if preload is not None:
            preload.cancel()
    finally:
        for each in sockets:
            each.close()
        await scheduler.close()
        await host.stop()
        await processes.close()
        await events.close()


async def _preload(models: ModelDesk) -> None:
    """Load the default model, so that the first answer need not wait for it."""
    try:
        await models.load((await models.find("default")).id)
    except AllodError as error:
        _log.warning("the default model was not loaded: %s", error.message)


def _spare_garbage_collector() -> None:
    """What is there now stays: a tenth of a request's time would go into looking at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _announce(options: ServeOptions, addresses: Sequence[str]) -> None:
    if options.announce is not None:
        options.announce(addresses)


def _stop_signal(stop_with_stdin: bool) -> asyncio.Event:
    """Set by Ctrl-C, by SIGTERM and, if wanted, by the end of stdin."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:

        def wait_for_end() -> None:
            while os.read(0, 4096):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait_for_end, daemon=True).start()
    return stop


@contextlib.contextmanager
def _server_file(paths: Paths, addresses: Sequence[str], key: str) -> Iterator[None]:
    """While the server runs, a file says where, and lets in who may read it: this user's own commands."""
    said = {"pid": os.getpid(), "urls": list(addresses), "version": __version__, "key": key}
    part = paths.server_file.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(said, file)
    part.replace(paths.server_file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(paths.server_file.read_text())["pid"] == os.getpid():  # not another server's
                paths.server_file.unlink()
