"""Extensions' passwords and tokens, in a table of the encrypted store. No route lists or shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, Delete, delete, insert, select

from allod.kernel import schema
from allod.kernel.storage import Database

_table = schema.secrets


class OwnSecrets:
    """The secrets of one owner."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def get(self, name: str) -> str | None:
        """The secret of this name, None if there is none."""
        query = select(_table.c.value).where(_table.c.owner == self._owner, _table.c.name == name)
        return await self._database.read(lambda connection: connection.execute(query).scalar())

    async def set(self, name: str, value: str) -> None:
        """Keep a secret, in place of one of the same name."""
        row = {"owner": self._owner, "name": name, "value": value, "changed_at": time.time()}

        def work(connection: Connection) -> None:
            connection.execute(self._this(name))
            connection.execute(insert(_table), row)

        await self._database.write(work)

    async def forget(self, name: str) -> None:
        """Drop a secret."""

        def work(connection: Connection) -> None:
            connection.execute(self._this(name))

        await self._database.write(work)

    async def names(self) -> Sequence[str]:
        """The names of all secrets."""
        query = select(_table.c.name).where(_table.c.owner == self._owner).order_by(_table.c.name)
        return await self._database.read(lambda connection: connection.execute(query).scalars().all())

    def _this(self, name: str) -> Delete:
        return delete(_table).where(_table.c.owner == self._owner, _table.c.name == name)
