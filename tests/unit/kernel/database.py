"""A real database of the kernel's own tables, for tests of those who keep something there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allod.kernel import schema
from allod.kernel.authorizer import KERNEL
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database

KEY = bytes(range(32))


@contextmanager
def kernel_database(folder: Path) -> Iterator[Database]:
    database = Database(folder / "allod.db", KEY)
    try:
        Migrator(database, folder / "backups").bring_up(KERNEL, schema.MIGRATIONS)
        yield database
    finally:
        database.dispose()
