"""The one table: what was typed, in order. Nothing of it is ever changed, only added to and deleted from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    text,
)

from allod.sdk.storage import Migration, Store

if TYPE_CHECKING:
    from alembic.operations import Operations

_table = Table(
    "terminal__history",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("text", String, nullable=False),
    Column("at", Float, nullable=False),
)


def _first(op: Operations) -> None:
    op.create_table(
        "terminal__history",
        Column("id", Integer, primary_key=True),
        Column("text", String, nullable=False),
        Column("at", Float, nullable=False),
        sqlite_autoincrement=True,
    )


MIGRATIONS: Sequence[Migration] = (Migration(1, "what was typed", _first),)


@dataclass(frozen=True, slots=True)
class Entry:
    """Something typed, and when, in seconds since 1970."""

    id: int
    text: str
    at: float


class History:
    """What was typed, as it is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def newest(self, count: int) -> list[Entry]:
        """The newest entries, newest last."""

        def read(connection: Connection) -> list[Entry]:
            found = connection.execute(select(_table).order_by(_table.c.id.desc()).limit(count))
            return [Entry(row.id, row.text, row.at) for row in found][::-1]

        return await self._store.read(read)

    async def add(self, typed: str, longest: int) -> int:
        """Keep it, unless it is the newest already, and delete all but the newest `longest`. Returns its id."""

        def write(connection: Connection) -> int:
            newest = connection.execute(select(_table).order_by(_table.c.id.desc()).limit(1)).first()
            if newest is not None and newest.text == typed:
                number = int(newest.id)
            else:
                added = insert(_table).values(text=typed, at=time.time()).returning(_table.c.id)
                number = int(connection.execute(added).scalar_one())
            # ids leave none out, because only the oldest are ever deleted, or all
            connection.execute(delete(_table).where(_table.c.id <= number - longest))
            return number

        return await self._store.write(write)

    async def clear(self) -> None:
        """Delete all, and with it how many there were, so that nothing of it is left on the disk."""

        def write(connection: Connection) -> None:
            connection.execute(delete(_table))
            # where the next id is remembered
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": _table.name})

        await self._store.write(write)
        await self._store.scrub()
