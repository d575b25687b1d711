"""Brings tables from what they are to what the code expects, by numbered steps.

A copy of the whole file is taken first. All steps that are due are one transaction: if one fails, none of them was ever
taken, so that the version before still finds its tables. Alembic is imported only when something is due: it takes a
fifth of a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, text

from allod.kernel.authorizer import KERNEL
from allod.kernel.storage import Database, acting_as
from allod.sdk.errors import AllodError, MigrationFailed
from allod.sdk.storage import Migration

_KEPT = 3
_TABLE = (
    "CREATE TABLE IF NOT EXISTS kernel__migrations (owner TEXT NOT NULL, number INTEGER NOT NULL, "
    "summary TEXT NOT NULL, applied_at REAL NOT NULL, PRIMARY KEY (owner, number))"
)
_log = logging.getLogger("allod.migrations")


class Migrator:
    """Takes the steps that are due, one owner at a time. `backups` is where the copies go."""

    def __init__(self, database: Database, backups: Path) -> None:
        self._database = database
        self._backups = backups

    def bring_up(self, owner: str, migrations: Sequence[Migration]) -> list[int]:
        """The numbers of the steps that were due and are now done. Blocks, and lets nobody write meanwhile.

        Raises MigrationFailed if one fails, if the steps are not 1, 2, 3 …, or if the tables are newer than the code.
        """
        if [step.number for step in migrations] != list(range(1, len(migrations) + 1)):
            raise MigrationFailed(
                f"The migrations of {owner!r} are not numbered 1, 2, 3 ….", fix="Report it to its author."
            )
        with self._database.exclusively():
            reached = self._reached(owner)
            if reached > len(migrations):
                raise MigrationFailed(
                    f"The tables of {owner!r} are of version {reached}; this program knows {len(migrations)}.",
                    fix="Update it to the version that was used last. Nothing was changed.",
                )
            due = migrations[reached:]
            if due and reached:
                self._keep_copy(owner, due[-1].number)
            if due:
                self._take(owner, due)
            return [step.number for step in due]

    def _reached(self, owner: str) -> int:
        with self._database.transaction(KERNEL) as connection:
            connection.execute(text(_TABLE))
            found = connection.execute(
                text("SELECT max(number) FROM kernel__migrations WHERE owner = :owner"), {"owner": owner}
            )
            return int(found.scalar() or 0)

    def _keep_copy(self, owner: str, number: int) -> None:
        self._backups.mkdir(mode=0o700, exist_ok=True)
        copy = self._backups / f"before-{owner}-{number}-{time.strftime('%Y%m%d-%H%M%S')}.db"
        copy.unlink(missing_ok=True)
        self._database.copy_to(copy)
        copies = self._backups.glob(f"before-{owner}-*.db")
        for old in sorted(copies, key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink()

    def _take(self, owner: str, due: Sequence[Migration]) -> None:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        step = due[0]
        try:
            with self._database.rebuilding(owner) as connection:
                operations = Operations(MigrationContext.configure(connection))
                for step in due:
                    step.up(operations)
                    with acting_as(connection, KERNEL):
                        _note(connection, owner, step)
        except Exception as error:
            why = error.detail if isinstance(error, AllodError) else type(error).__name__
            _log.exception("migration %d of %s failed", step.number, owner)
            raise MigrationFailed(
                f"Migration {step.number} of {owner!r} ({step.summary}) failed: {why}",
                fix="The tables are as they were: go back to the version that you had, and report this.",
            ) from error
        _log.info("%s: its tables are now of version %d", owner, due[-1].number)


def _note(connection: Connection, owner: str, step: Migration) -> None:
    connection.execute(
        text("INSERT INTO kernel__migrations VALUES (:owner, :number, :summary, :at)"),
        {"owner": owner, "number": step.number, "summary": step.summary, "at": time.time()},
    )
