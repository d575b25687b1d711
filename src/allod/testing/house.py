"""A whole kernel on a data folder, and a gateway on it, without a key of this machine and without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allod.kernel.api_keys import ApiKeys
from allod.kernel.house import House
from allod.kernel.installed import GROUP
from allod.kernel.metrics import Metrics
from allod.kernel.paths import Paths
from allod.kernel.processes import ChildProcesses
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.kernel.settings import Settings
from allod.kernel.storage import Database
from allod.kernel.vault import Vault

if TYPE_CHECKING:
    from allod.gateway.server import Gateway

KEY = bytes(range(32))
"""The key of every test's database."""


def point(name: str, value: str) -> EntryPoint:
    """An entry point of an extension that is not installed: `value` is "module:Class"."""
    return EntryPoint(name, value, GROUP)


@asynccontextmanager
async def standing(
    folder: Path,
    points: Callable[[], Sequence[EntryPoint]] | Sequence[EntryPoint] = (),
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    builtin_only: bool = False,
) -> AsyncIterator[House]:
    """A house with these extensions, on `folder`; started, and closed afterwards. Raises what its start raises."""
    paths = Paths(folder)
    paths.create()
    known = Settings(paths.config, settings)
    known.load("server", ServerSettings)
    processes = ChildProcesses(paths.sockets())
    house = House(
        paths=paths,
        database=Database(paths.store, KEY),
        settings=known,
        keys=ApiKeys(),
        sessions=Sessions(),
        processes=processes,
        metrics=Metrics(),
        builtin_only=builtin_only,
        points=points if callable(points) else lambda: points,
    )
    try:
        await house.prepare()
        await house.start()
        await house.host.open_doors()
        yield house
    finally:
        await house.close()
        await processes.close()


async def gateway_on(house: House) -> Gateway:
    """The web's side of a house, as a server has it; its vault is shut, so it must not be asked for keys' sakes."""
    from allod.gateway import web
    from allod.kernel.doctor import Doctor

    vault = Vault(house.paths)

    async def unlock(secret: str) -> House:
        return house

    doctor = Doctor(
        paths=house.paths,
        urls=(),
        settings=house.settings,
        vault=vault,
        processes=house.processes,
        house=lambda: house,
    )
    gateway = web.application(
        settings=house.settings,
        keys=house.keys,
        sessions=house.sessions,
        vault=vault,
        unlock=unlock,
        metrics=house.metrics,
        doctor=doctor.examine,
        paths=house.paths,
        url="http://localhost:1337",
    )
    await gateway.open(house)
    return gateway
