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
from typing import TYPE_CHECKING, Any

from allod import __version__
from allod.gateway.listen import listen, urls
from allod.kernel import log
from allod.kernel.api_keys import ApiKeys
from allod.kernel.disk import of_disk
from allod.kernel.doctor import Doctor
from allod.kernel.house import House
from allod.kernel.metrics import Metrics
from allod.kernel.paths import Paths, data_folder, locked
from allod.kernel.processes import ChildProcesses, start_server
from allod.kernel.restore import SecretNeeded, settle
from allod.kernel.restore import restore as restore_backup
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.kernel.settings import Settings
from allod.kernel.vault import Vault
from allod.sdk.errors import AllodError

if TYPE_CHECKING:
    from allod.gateway.server import Gateway

start_for_client = start_server
"""Starts a server for a command's own time."""

_log = logging.getLogger("allod")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says; None leaves it to the settings.

    `announce` is called with the URLs once they answer, and whether the store is open.
    """

    hosts: Sequence[str] | None = None
    port: int | None = None
    model: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    builtin_only: bool = False
    stop_with_stdin: bool = False
    quiet: bool = False
    announce: Callable[[Sequence[str], bool], None] | None = None

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


@contextlib.contextmanager
def _own_folder() -> Iterator[Paths]:
    """The data folder, ours alone, and whole: a restore that was killed is brought to its end first."""
    paths = Paths(data_folder())
    paths.create()
    with locked(paths):
        settle(paths)
        yield paths


def create_store(passphrase: str) -> None:
    """Make the key of a new data folder, opened by `passphrase` alone. Raises Conflict where there is one already."""
    with _own_folder() as paths:
        Vault(paths).create(passphrase)


def restore(file: Path, secret: Callable[[Sequence[str]], str]) -> dict[str, Any]:
    """Put what a backup holds in the place of what is here, which is moved aside. Blocks.

    `secret` is asked for a passphrase or recovery code, where this machine's own keys do not open the backup.
    """
    with _own_folder() as paths:
        try:
            done = restore_backup(file, paths)
        except SecretNeeded as needed:
            done = restore_backup(file, paths, secret(needed.kinds))
    moved_to = str(done.moved_to) if done.moved_to else None
    return {"created_at": done.created_at, "version": done.version, "moved_to": moved_to}


def serve(options: ServeOptions) -> int:
    """Run the server until it is told to stop. Returns the exit code. Raises an AllodError where it cannot start."""
    log.configure(logging.WARNING if options.quiet else logging.INFO)
    if sys.platform == "win32":
        asyncio.run(_serve(options))
    else:
        import uvloop

        uvloop.run(_serve(options))
    return 0


async def _serve(options: ServeOptions) -> None:
    log.guard(asyncio.get_running_loop())
    with _own_folder() as paths:
        stop = _stop_signal(paths if options.stop_with_stdin else None)
        server = _Server(options, paths)
        try:
            await server.run(stop)
        finally:
            await server.close()


class _Server:
    """The parts of one server. The house stands once the store is open: at start, or when a person unlocks it."""

    def __init__(self, options: ServeOptions, paths: Paths) -> None:
        self._options = options
        self._paths = paths
        self._settings = Settings(paths.config, options.overrides())
        self._server_settings = self._settings.load("server", ServerSettings)
        self._vault = Vault(paths)
        self._keys = ApiKeys()
        self._sessions = Sessions()
        self._metrics = Metrics()
        allow_unwalled = self._server_settings.allow_unwalled_workers
        self._processes = ChildProcesses(paths.sockets(), allow_unwalled=allow_unwalled)
        self._house: House | None = None
        self._gateway: Gateway | None = None
        self._opening = asyncio.Lock()
        self._preload: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        if await asyncio.to_thread(self._vault.open_by_itself):
            self._house = await self._new_house()
        server = self._server_settings = self._settings.current("server")
        sockets = listen(server, has_key=self._house is None or len(self._keys) > 0)
        addresses = urls(sockets, tls=server.tls_certificate is not None)
        try:
            if self._house is not None:
                await self._house.start()
                self._load_default_model(self._house)
            web = await asyncio.to_thread(importlib.import_module, "allod.gateway.web")
            self._gateway = gateway = web.application(
                settings=self._settings,
                keys=self._keys,
                sessions=self._sessions,
                vault=self._vault,
                unlock=self._unlock,
                metrics=self._metrics,
                doctor=self._doctor(addresses).examine,
                paths=self._paths,
                url=addresses[0],
            )
            if self._house is not None:
                await gateway.open(self._house)
            _spare_garbage_collector()
            with _server_file(self._paths, addresses, self._keys.create_own()):
                await web.run(gateway, server, sockets, stop, lambda: self._announce(addresses))
        finally:
            for each in sockets:
                each.close()

    async def _new_house(self) -> House:
        """A house on the open store. Raises what says why that cannot be."""
        house = House(
            paths=self._paths,
            database=await asyncio.to_thread(self._vault.open_store),
            settings=self._settings,
            keys=self._keys,
            sessions=self._sessions,
            processes=self._processes,
            metrics=self._metrics,
            builtin_only=self._options.builtin_only,
        )
        try:
            await house.prepare()
        except BaseException:
            await house.close()
            raise
        return house

    async def _unlock(self, secret: str) -> House:
        """Open the store by a person's secret. Raises WrongPassphrase, TooManyTries."""
        await asyncio.to_thread(self._vault.unlock, secret)
        async with self._opening:
            if self._house is None:
                house = await self._new_house()
                try:
                    await house.start()
                    assert self._gateway is not None
                    await self._gateway.open(house)
                except BaseException:
                    await house.close()
                    raise
                self._house = house
                self._load_default_model(house)
                self._say_what_waits()
            return self._house

    def _say_what_waits(self) -> None:
        """A locked server listens by config.toml and the environment: what was changed in the store comes too late."""
        now, wanted = self._server_settings, self._settings.current("server")
        waiting = [
            name
            for name in ("host", "port", "tls_certificate", "tls_key")
            if getattr(now, name) != getattr(wanted, name)
        ]
        if waiting:
            _log.warning(
                "these settings of the server count only where it starts unlocked: %s; put them into config.toml",
                ", ".join(waiting),
            )

    def _load_default_model(self, house: House) -> None:
        if self._settings.current("server").preload:
            self._preload = asyncio.create_task(_preload(house), name="preload")

    def _doctor(self, addresses: Sequence[str]) -> Doctor:
        return Doctor(
            paths=self._paths,
            urls=addresses,
            settings=self._settings,
            vault=self._vault,
            processes=self._processes,
            house=lambda: self._house,
        )

    def _announce(self, addresses: Sequence[str]) -> None:
        if self._options.announce is not None:
            self._options.announce(addresses, self._house is not None)

    async def close(self) -> None:
        """Stop everything."""
        if self._preload is not None:
            self._preload.cancel()
        try:
            if self._house is not None:
                await self._house.close()
        finally:
            await self._processes.close()


async def _preload(house: House) -> None:
    """Load the default model, so that the first answer need not wait for it."""
    try:
        await house.models.load((await house.models.find("default")).id)
    except AllodError as error:
        _log.warning("the default model was not loaded: %s", error.message)


def _spare_garbage_collector() -> None:
    """What is there now stays: a tenth of a request's time would go into looking at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _stop_signal(borrowed: Paths | None) -> asyncio.Event:
    """Set by Ctrl-C, by SIGTERM and, for a server of a command's time, by the end of stdin once no other holds it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, stop.set)
    if borrowed is not None:

        def wait_for_end() -> None:
            while os.read(0, 4096):
                pass
            borrowed.wait_until_unheld()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait_for_end, daemon=True).start()
    return stop


@contextlib.contextmanager
def _server_file(paths: Paths, addresses: Sequence[str], key: str) -> Iterator[None]:
    """While the server runs, a file says where, and lets in who may read it: this user's own commands."""
    said = {"pid": os.getpid(), "urls": list(addresses), "version": __version__, "key": key}
    part = paths.server_file.with_suffix(f".{os.getpid()}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(said, file)
        part.replace(paths.server_file)
    except OSError as error:
        raise of_disk(error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(paths.server_file.read_text())["pid"] == os.getpid():  # not another server's
                paths.server_file.unlink()
