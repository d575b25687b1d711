"""The ledger of the egress gate: who reached whom, what for, how much; never a path, never what was said.

Rows are written a moment later, by a task of their own: nobody waits for them, and no request fails for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, or_, select

from allod.kernel import custody, schema
from allod.kernel.storage import Database
from allod.sdk.errors import AllodError

KEPT_S = 90 * 86400
KEPT_ROWS = 100_000
_PRUNE_EVERY = 1000
_table = schema.ledger
_log = logging.getLogger("allod.egress")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request that left, or was refused. A redirect is a request of its own.

    `verdict` is "allowed", or why it was refused: offline, malformed, undeclared (not in the manifest), ungranted,
    downgrade (from https to http), private_address (a public name that leads into a private network), denied (the user
    took the grant back while it ran). One that was ended in mid-transfer has a `status` and such a verdict. Bytes are
    those of the bodies, unpacked. `at` in seconds since 1970.
    """

    id: int
    at: float
    extension: str
    purpose: str
    host: str
    method: str
    verdict: str
    status: int | None
    sent_bytes: int
    received_bytes: int
    duration_s: float


@dataclass(slots=True)
class Hop:
    """An entry in the making."""

    extension: str
    purpose: str
    method: str
    host: str = ""
    verdict: str = ""
    status: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    duration_s: float | None = None
    is_noted: bool = False

    def end(self) -> None:
        """Its time ends here, if it has not ended before."""
        if self.duration_s is None:
            self.duration_s = time.monotonic() - self.began


class Ledger:
    """The table, and what is on its way there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: list[dict[str, Any]] = []
        self._writing: asyncio.Task[None] | None = None
        self._since_pruned = 0

    async def prune(self) -> None:
        """Drop what is older than 90 days, and all but the newest 100 000 rows."""
        await self._database.write(_prune)

    def note(self, hop: Hop) -> None:
        """Keep `hop`, once. One that was not judged yet leaves no row."""
        if hop.is_noted or not hop.verdict:
            return
        hop.end()
        hop.is_noted = True
        names = [column.name for column in _table.columns if column.name != "id"]
        self._rows.append({name: getattr(hop, name) for name in names})
        if self._writing is None or self._writing.done():
            self._writing = custody.begin(self._write(), "egress ledger")

    async def entries(self, limit: int, before_id: int | None, extension: str | None) -> list[Entry]:
        """The newest entries, of one extension or of all, newest first; with `before_id` older ones than that."""
        await self.settle()
        query = select(_table).order_by(_table.c.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(_table.c.id < before_id)
        if extension is not None:
            query = query.where(_table.c.extension == extension)

        def work(connection: Connection) -> list[Entry]:
            return [Entry(**row) for row in connection.execute(query).mappings()]

        return await self._database.read(work)

    async def settle(self) -> None:
        """Wait until all that was noted is in the table, or could not be kept."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        while self._rows:
            rows, self._rows = self._rows, []
            try:
                await self._keep(rows)
            except Exception as error:  # the request itself went well, or was refused well
                reason = error.detail if isinstance(error, AllodError) else type(error).__name__
                _log.warning("the egress ledger lacks %d entries: %s", len(rows), reason)

    async def _keep(self, rows: list[dict[str, Any]]) -> None:
        self._since_pruned += len(rows)
        is_due = self._since_pruned >= _PRUNE_EVERY

        def work(connection: Connection) -> None:
            connection.execute(insert(_table), rows)
            if is_due:
                _prune(connection)

        await self._database.write(work)
        if is_due:
            self._since_pruned = 0


def _prune(connection: Connection) -> None:
    newest = connection.scalar(select(func.max(_table.c.id))) or 0
    is_old = or_(_table.c.at < time.time() - KEPT_S, _table.c.id <= newest - KEPT_ROWS)
    connection.execute(delete(_table).where(is_old))
