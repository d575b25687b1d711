"""Events that must not be lost: rows, written in the transaction of what they tell of, handed on once it is committed.

The table is the only queue. Whoever must hear of every event has a cursor in it, saved now and then, so that after a
crash it hears some a second time and misses none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, and_, bindparam, delete, false, func, insert, not_, or_, select, update

from allod.kernel.authorizer import KERNEL
from allod.kernel.log import said_of
from allod.kernel.schema import cursors, outbox
from allod.kernel.storage import Database, acting_as
from allod.sdk.errors import AllodError, ExtensionFailed
from allod.sdk.events import Event

_KEPT_S = 7 * 86400
_KEPT_ROWS = 100_000
BATCH = 200
"""How many events are read at once."""
_SAVE_EVERY_S = 1.0
_NO_END = (1 << 63) - 1
# Built once: putting a statement together takes longer than running it.
_INSERT = insert(outbox)
_AFTER = (
    select(outbox)
    .where(outbox.c.id > bindparam("after"), outbox.c.id <= bindparam("upto"))
    .order_by(outbox.c.id)
    .limit(BATCH)
)
_NAMED = _AFTER.where(outbox.c.name == bindparam("named"))
_MOVE = update(cursors).where(cursors.c.subscriber == bindparam("who")).values(event=bindparam("heard"))
_log = logging.getLogger("allod.events")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row: an event that was recorded. `fields` is a JSON object; `at` in seconds since 1970."""

    id: int
    source: str
    name: str
    fields: str
    at: float


class Outbox:
    """The rows of one database. `start` it before anything is recorded."""

    def __init__(self, database: Database) -> None:
        self.last = 0
        """Id of the newest event that was handed on."""
        self._database = database
        self._has_news = (
            False  # something was recorded since the last look; touched only by who holds the writer
        )
        self._news = asyncio.Event()
        self._moved: dict[str, int] = {}  # cursors that are not saved yet
        self._has_moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, hand: Callable[[Recorded], None]) -> None:
        """Drop what is old, then call `hand` for each event that is recorded from now on, in order."""
        loop = asyncio.get_running_loop()

        def written() -> None:
            if self._has_news:
                self._has_news = False
                loop.call_soon_threadsafe(self._news.set)

        try:
            await self.prune()
        except AllodError as error:  # it can wait
            _log.warning("old events were not dropped: %s", error.detail)
        self._written = written
        self._database.after_write.append(written)
        self.last = await self._database.read(_newest)
        self._tasks = [
            asyncio.create_task(self._hand_on(hand), name="outbox"),
            asyncio.create_task(self._save_now_and_then(), name="outbox cursors"),
        ]

    async def prune(self) -> None:
        """Drop what is old, and the oldest where there are too many."""
        await self._database.write(_prune)

    def record(self, connection: Connection, source: str, event: Event) -> None:
        """Keep `event` in the transaction of `connection`. Raises ExtensionFailed where a field is not JSON."""
        name = type(event).__name__
        try:
            fields = orjson.dumps(event).decode()
        except orjson.JSONEncodeError as error:
            raise ExtensionFailed(
                f"The event {name!r} of {source!r} holds something that is not JSON.",
                fix="Report it to the author of the extension.",
            ) from error
        with acting_as(connection, KERNEL):
            row = {"source": source, "name": name, "fields": fields, "at": time.time()}
            connection.execute(_INSERT, row)
            self._has_news = True  # if this is rolled back, the next look finds nothing: no harm

    async def after(self, id: int, *, upto: int = _NO_END, name: str = "") -> list[Recorded]:
        """The next events after this one, all or those of one class, a batch at most, in order."""
        values = {"after": id, "upto": upto} | ({"named": name} if name else {})
        query = _NAMED if name else _AFTER

        def rows(connection: Connection) -> list[Recorded]:
            return [Recorded(*row) for row in connection.execute(query, values)]

        return await self._database.read(rows)

    async def cursor(self, subscriber: str, new: int) -> int:
        """Up to which event `subscriber` has heard. One that is not known yet is kept, at `new`."""

        def find(connection: Connection) -> int | None:
            return connection.scalar(select(cursors.c.event).where(cursors.c.subscriber == subscriber))

        def found_or_kept(connection: Connection) -> int:
            known = find(connection)
            if known is None:
                connection.execute(insert(cursors).values(subscriber=subscriber, event=new))
            return new if known is None else known

        known = await self._database.read(find)
        return await self._database.write(found_or_kept) if known is None else known

    def move(self, subscriber: str, event: int) -> None:
        """`subscriber` has heard up to this event. Kept within a second, or with `save`."""
        self._moved[subscriber] = event
        self._has_moved.set()

    async def save(self) -> None:
        """Keep all cursors that have moved. If the disk takes nothing, they are kept the next time."""
        moved, self._moved = self._moved, {}
        if not moved:
            return
        rows = [{"who": subscriber, "heard": event} for subscriber, event in moved.items()]
        try:
            await self._database.write(lambda connection: connection.execute(_MOVE, rows))
        except BaseException as error:
            self._moved = moved | self._moved
            if not isinstance(error, AllodError):
                raise
            _log.warning("subscribers may hear some events twice after a restart: %s", error.detail)

    async def close(self) -> None:
        """Save the cursors and hand on nothing more."""
        if not self._tasks:
            return
        self._database.after_write.remove(self._written)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.save()

    async def _hand_on(self, hand: Callable[[Recorded], None]) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                rows = await self.after(self.last)
                for row in rows:
                    self.last = row.id
                    hand(row)
                if len(rows) == BATCH:
                    self._news.set()
            except Exception as error:  # whatever it is, events must not stop for good
                _log.warning("recorded events wait for the next one: %s", said_of(error))

    async def _save_now_and_then(self) -> None:
        while True:
            await self._has_moved.wait()
            self._has_moved.clear()
            await asyncio.sleep(_SAVE_EVERY_S)
            await self.save()


def _newest(connection: Connection) -> int:
    return connection.scalar(select(func.max(outbox.c.id))) or 0


def _prune(connection: Connection) -> None:
    """Drop rows that are old and that no cursor needs, and whatever is over the limit."""
    needed: dict[str, int] = {}
    for subscriber, event in connection.execute(select(cursors.c.subscriber, cursors.c.event)):
        name = _event_of(subscriber)
        needed[name] = min(event, needed.get(name, event))
    is_needed = or_(
        false(), *(and_(outbox.c.name == name, outbox.c.id > event) for name, event in needed.items())
    )
    is_old = outbox.c.at < time.time() - _KEPT_S
    connection.execute(delete(outbox).where(is_old, not_(is_needed)))
    newest = select(outbox.c.id).order_by(outbox.c.id.desc()).offset(_KEPT_ROWS).limit(1).scalar_subquery()
    over = connection.execute(delete(outbox).where(outbox.c.id <= newest)).rowcount
    if over:
        _log.warning("%d recorded events were dropped: at most %d are kept", over, _KEPT_ROWS)


def _event_of(subscriber: str) -> str:
    """The class that a subscriber hears of: its name is `<extension>:<class>`, and a second one's ends in #2."""
    return subscriber.rpartition(":")[2].partition("#")[0]
