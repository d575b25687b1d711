"""The contract suite: what every extension must keep, whoever wrote it.

An author's own tests run it in a few lines:

    @pytest.mark.parametrize("point", contract.installed(), ids=lambda point: point.name)
    async def test_contract(point, tmp_path):
        await contract.check(point.load(), tmp_path)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from allod.kernel.events import InProcessEvents
from allod.kernel.host import GROUP, ExtensionContext
from allod.kernel.metrics import Metrics
from allod.kernel.models import ModelDesk, ModelTable
from allod.kernel.paths import Paths
from allod.kernel.processes import ChildProcesses
from allod.kernel.scheduler import Scheduler
from allod.sdk.engine import CPU, Engine
from allod.sdk.extension import API, RESERVED_NAMES, Extension, Manifest
from allod.sdk.stage import Stage

Kind = type[Extension[Any]]
_START_S = 10
_FREE_BYTES = 8 << 30


def installed() -> list[EntryPoint]:
    """The entry points of all extensions that are installed, by name."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


async def check(kind: Kind, folder: Path) -> None:
    """Everything below, on a data folder made in `folder`. Raises AssertionError, which says what is not kept."""
    check_manifest(kind)
    check_settings(kind)
    await check_life(kind, folder)


def check_manifest(kind: Kind) -> None:
    """It is an extension of this contract's version, under a name that is free."""
    assert issubclass(kind, Extension), f"{kind.__name__} is no Extension"
    manifest = kind.manifest
    assert isinstance(manifest, Manifest), f"{kind.__name__}.manifest is no Manifest"
    assert manifest.api == API, f"{manifest.name} was written for version {manifest.api} of the contract"
    assert manifest.name not in RESERVED_NAMES, f"the name {manifest.name!r} is taken"
    assert manifest.summary.endswith("."), f"the summary of {manifest.name} is no sentence"


def check_settings(kind: Kind) -> None:
    """Every setting has a title, a description and a default; all of them together are a valid choice."""
    for name, field in fields_of(kind.Settings):
        where = f"{kind.manifest.name}.{name}"
        assert field.title, f"{where} has no title"
        assert field.description, f"{where} has no description"
        assert not field.is_required(), f"{where} has no default"
    kind.Settings()


def fields_of(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a model with its dotted name, those of tables within it too."""
    for name, field in settings.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in _models_in(field.annotation):
            yield from fields_of(inner, f"{prefix}{name}.*.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


async def check_life(kind: Kind, folder: Path) -> None:
    """It starts on an empty data folder, contributes, stops, starts again where it was, and leaves nothing running."""
    before, programs_before = asyncio.all_tasks(), set(psutil.Process().children())
    for _ in ("an empty folder", "the same folder again"):
        async with surroundings(folder) as context_for:
            extension = kind(context_for(kind, kind.Settings()))
            await asyncio.wait_for(extension.start(), _START_S)
            await check_contributions(extension)
            await asyncio.wait_for(extension.stop(), _START_S)
        left = {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}
        assert not left, f"{kind.manifest.name} left tasks behind: {sorted(left)}"
        running = {child.name() for child in set(psutil.Process().children()) - programs_before}
        assert not running, f"{kind.manifest.name} left programs behind: {sorted(running)}"


async def check_contributions(extension: Extension[Any]) -> None:
    """What it contributes is of the right kind, and its routes can be mounted."""
    from fastapi import APIRouter, FastAPI

    name = extension.manifest.name
    for engine in extension.engines():
        assert isinstance(engine, Engine), f"{name}: {engine!r} is no Engine"
        for card in await engine.models():
            assert card.engine == engine.name, f"{name}: {card.id} names another engine"
    for stage in extension.stages():
        assert isinstance(stage, Stage), f"{name}: {stage!r} is no Stage"
    for found in await extension.checks():
        assert found.status == "ok" or found.fix, f"{name}: the check {found.name!r} says no way out"
    router = extension.router()
    if router is not None:
        assert isinstance(router, APIRouter), f"{name}: its router is no APIRouter"
        app = FastAPI()
        app.include_router(router, prefix=f"/api/{name}")
        for path, methods in app.openapi()["paths"].items():
            assert path.startswith(f"/api/{name}"), f"{name}: {path} is outside its place"
            for method, route in methods.items():
                assert route.get("description"), f"{name}: {method.upper()} {path} has no docstring"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an extension lives in: a kernel without a server."""

    data_folder: Path
    events: InProcessEvents
    processes: ChildProcesses
    models: ModelDesk

    def __call__(self, kind: Kind, settings: BaseModel) -> ExtensionContext:
        """The context of one extension."""
        log = logging.getLogger(f"allod.{kind.manifest.name}")
        return ExtensionContext(settings, self.data_folder, self.events, self.processes, self.models, log)


@asynccontextmanager
async def surroundings(folder: Path) -> AsyncIterator[Surroundings]:
    """A kernel on the data folder `folder`. No model is loaded unless an extension loads one."""
    paths = Paths(folder)
    paths.create()
    events = InProcessEvents()
    processes = ChildProcesses(paths.sockets())
    scheduler = Scheduler(
        free_bytes=lambda _: {CPU: _FREE_BYTES},
        events=events,
        metrics=Metrics(),
        max_waiting=8,
        keep_alive_s=60,
    )
    desk = ModelDesk(ModelTable(lambda: ()), scheduler)
    try:
        yield Surroundings(paths.data, events, processes, desk)
    finally:
        await scheduler.close()
        await processes.close()
        await events.close()
