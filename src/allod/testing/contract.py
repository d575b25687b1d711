"""The contract suite: what every extension must keep, whoever wrote it.

An author's own tests run it in a few lines:

    @pytest.mark.parametrize("point", contract.installed(), ids=lambda point: point.name)
    async def test_contract(point, tmp_path):
        await contract.check(point.load(), tmp_path)
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from allod.kernel.egress_hosts import normal_pattern
from allod.kernel.house import House
from allod.kernel.installed import Entry, points
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database
from allod.sdk.extension import API, RESERVED_NAMES, Extension, Manifest
from allod.sdk.storage import Migration
from allod.testing.house import KEY, point, standing
from allod.testing.rows import fill, row_counts

Kind = type[Extension[Any]]


def installed() -> list[EntryPoint]:
    """The entry points of all extensions that are installed, by name."""
    return points()


async def check(kind: Kind, folder: Path, needs: Sequence[Kind] = ()) -> None:
    """Everything below, on data folders made in `folder`. Raises AssertionError, which says what is not kept.

    `needs` are the extensions that it needs, unless they are installed.
    """
    check_manifest(kind)
    check_settings(kind)
    await check_life(kind, folder / "life", needs)
    await check_migrations(kind, folder / "migrations", needs)


def check_manifest(kind: Kind) -> None:
    """It is an extension of this contract's version, under a name that is free."""
    assert issubclass(kind, Extension), f"{kind.__name__} is no Extension"
    manifest = kind.manifest
    assert isinstance(manifest, Manifest), f"{kind.__name__}.manifest is no Manifest"
    assert manifest.api == API, f"{manifest.name} was written for version {manifest.api} of the contract"
    assert manifest.name not in RESERVED_NAMES, f"the name {manifest.name!r} is taken"
    assert manifest.summary.endswith("."), f"the summary of {manifest.name} is no sentence"
    for host in manifest.egress:
        normal_pattern(host)


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


async def check_life(kind: Kind, folder: Path, needs: Sequence[Kind] = ()) -> None:
    """It starts on an empty data folder, contributes, is stopped and started while the server runs, and once more on
    the folder that it left; each time it leaves no task, no child process and no lock on a table behind.
    """
    name = kind.manifest.name
    programs = set(psutil.Process().children())
    wanted = _with_needs(kind, needs)
    for _ in ("an empty folder", "the same folder again"):
        async with standing(folder, wanted) as house:
            await check_contributions(house, house.host.get(name))
            await house.host.restart(name)
            _assert_active(house.host.get(name))
            await house.host.disable(name)
            left = house.host.get(name).left_behind
            assert not left, f"{name} left behind: {', '.join(left)}"
            await asyncio.wait_for(house.database.write(lambda connection: None), 5)  # no lock is held
            await house.host.enable(name)
            _assert_active(house.host.get(name))
        running = {child.name() for child in set(psutil.Process().children()) - programs}
        assert not running, f"{name} left programs behind: {sorted(running)}"


def _with_needs(kind: Kind, needs: Sequence[Kind]) -> list[EntryPoint]:
    found = {each.name: each for each in installed() if each.name != kind.manifest.name}
    given = {each.manifest.name: _point(each) for each in needs}
    return [_point(kind), *(given.get(other) or found[other] for other in _all_needs(kind, found, given))]


def _point(kind: Kind) -> EntryPoint:
    return point(kind.manifest.name, f"{kind.__module__}:{kind.__qualname__}")


def _all_needs(kind: Kind, found: dict[str, EntryPoint], given: dict[str, EntryPoint]) -> list[str]:
    """All that it needs, at first and at second hand."""
    names: list[str] = []
    waiting = list(kind.manifest.needs)
    while waiting:
        need = waiting.pop()
        if need not in names:
            assert need in found or need in given, (
                f"{kind.manifest.name} needs {need!r}, which is not installed"
            )
            names.append(need)
            waiting += (given.get(need) or found[need]).load().manifest.needs
    return names


def _assert_active(entry: Entry) -> None:
    assert entry.state == "active", f"{entry.name} does not run: {entry.reason}"


async def check_contributions(house: House, entry: Entry) -> None:
    """It runs; what it contributes is in order (the host has looked at the types), and its routes are documented."""
    from fastapi import FastAPI

    _assert_active(entry)
    assert entry.extension is not None
    name = entry.name
    for engine in entry.contributions.engines:
        for card in await asyncio.wait_for(engine.models(), 30):
            assert card.engine == engine.name, f"{name}: {card.id} names another engine"
    for tool in entry.contributions.tools:
        assert tool.summary.strip(), f"{name}: the tool {tool.name!r} tells the model nothing"
    for job in entry.contributions.jobs:
        assert job.title.strip(), f"{name}: the job {job.name!r} has no title"
    for found in await entry.extension.checks():
        assert found.status == "ok" or found.fix, f"{name}: the check {found.name!r} says no way out"
    if entry.router is not None:
        app = FastAPI()
        app.include_router(entry.router, prefix=f"/api/{name}")
        for path, methods in app.openapi()["paths"].items():
            assert path.startswith(f"/api/{name}"), f"{name}: {path} is outside its place"
            for method, route in methods.items():
                assert route.get("description"), f"{name}: {method.upper()} {path} has no docstring"


async def check_migrations(kind: Kind, folder: Path, needs: Sequence[Kind] = ()) -> None:
    """Each step of its tables is taken on a copy that holds rows of the step before, and loses none of them."""
    async with standing(folder / "running", _with_needs(kind, needs)) as house:
        entry = house.host.get(kind.manifest.name)
        _assert_active(entry)
        assert entry.extension is not None
        migrations = entry.extension.migrations()
    await asyncio.to_thread(_check_steps, kind, migrations, folder)


def _check_steps(kind: Kind, migrations: Sequence[Migration], folder: Path) -> None:
    for number in range(1, len(migrations)):
        before = folder / f"step-{number}"
        before.mkdir()
        counts = _brought_up(kind, before, migrations[:number], fills=True)
        copy = folder / f"step-{number}-copy"
        shutil.copytree(before, copy)
        after = _brought_up(kind, copy, migrations[: number + 1], fills=False)
        lost = {table for table, count in counts.items() if after.get(table, 0) < count}
        assert not lost, f"{kind.manifest.name}: step {number + 1} loses rows of {sorted(lost)}"
    _brought_up(kind, folder / "all", migrations, fills=True)


def _brought_up(kind: Kind, folder: Path, migrations: Sequence[Migration], *, fills: bool) -> dict[str, int]:
    """Bring a database in `folder` up by these steps; the rows of each of its tables, after a few were added."""
    folder.mkdir(exist_ok=True)
    name = kind.manifest.name
    database = Database(folder / "allod.db", KEY)
    try:
        Migrator(database, folder / "backups").bring_up(name, migrations)
        with database.transaction(name) as connection:
            if fills:
                fill(connection, f"{name}__")
            counts = row_counts(connection, f"{name}__")
        problems = database.problems()
        assert not problems, f"{name}: its tables are damaged after step {len(migrations)}: {problems}"
        return counts
    finally:
        database.dispose()
