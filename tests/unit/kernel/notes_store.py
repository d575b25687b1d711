"""A real store in a folder of the test's own: the kernel's tables, and one table of an extension `notes`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Connection, Integer, String, func, select

from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.migrations import Migrator
from allod.kernel.schema import MIGRATIONS, outbox
from allod.kernel.storage import Database
from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from alembic.operations import Operations

KEY = bytes(range(32))


def _lines(operations: Operations) -> None:
    operations.create_table(
        "notes__lines", Column("id", Integer, primary_key=True), Column("text", String, nullable=False)
    )


def open_database(folder: Path) -> Database:
    """The store in `folder`, its tables up to date. Opening it once more is as after a crash."""
    database = Database(folder / "allod.db", KEY)
    migrator = Migrator(database, folder / "backups")
    migrator.bring_up(KERNEL, MIGRATIONS)
    migrator.bring_up("notes", [Migration(1, "lines", _lines)])
    return database


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[Database]:
    """The same, closed afterwards."""
    database = open_database(folder)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def started_bus(database: Database) -> AsyncIterator[EventBus]:
    """A bus on a store."""
    bus = EventBus(database)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


async def recorded(database: Database) -> list[tuple[Any, ...]]:
    """Source, class and fields of all rows of the outbox, in order."""
    query = select(outbox.c.source, outbox.c.name, outbox.c.fields).order_by(outbox.c.id)
    return await database.read(lambda connection: [tuple(row) for row in connection.execute(query)])


def count(connection: Connection, table: Any) -> int:
    """How many rows a table has."""
    return connection.scalar(select(func.count()).select_from(table)) or 0
