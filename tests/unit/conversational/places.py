"""Both places in which threads are kept, for the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allod.extensions.conversational.memory import MemoryRows
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.store.kept import StoreRows
from allod.extensions.conversational.store.tables import MIGRATIONS
from allod.kernel import schema
from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database
from allod.testing.house import KEY

NAME = "conversational"


class Undone(Exception):
    """Takes a transaction back."""


def opened(folder: Path) -> Database:
    """A store with the tables of conversations."""
    database = Database(folder / "allod.db", KEY)
    migrator = Migrator(database, folder / "backups")
    migrator.bring_up(KERNEL, schema.MIGRATIONS)
    migrator.bring_up(NAME, MIGRATIONS)
    return database


@contextmanager
def rows_of(database: Database) -> Iterator[Rows]:
    """Rows in the store; what is done to them is taken back at the end."""
    events = EventBus(database).of(NAME)
    try:
        with database.transaction(NAME) as connection:
            yield StoreRows(connection, events)
            raise Undone
    except Undone:
        pass


def memory_rows() -> MemoryRows:
    """Rows in memory."""
    return MemoryRows(lambda event: None)
