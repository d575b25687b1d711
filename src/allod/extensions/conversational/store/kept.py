"""The rows of threads in the store, as `rows.Rows` has them. Words for search are written in the same transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, RowMapping, and_, bindparam, delete, func, insert, select, text, update

from allod.extensions.conversational.memory import (
    no_attachment,
    no_message,
    no_queued,
    no_run,
    no_thread,
)
from allod.extensions.conversational.parts import PARTS, searchable
from allod.extensions.conversational.records import (
    Attachment,
    ContextPolicy,
    Message,
    Outline,
    Queued,
    RunRecord,
    Thread,
)
from allod.extensions.conversational.store import attachments
from allod.extensions.conversational.store.tables import FOUND, TITLES, messages, queue, runs, tags, threads
from allod.extensions.conversational.words import indexed
from allod.sdk.blobs import KEY_BYTES, Blobs
from allod.sdk.events import Event, Events
from allod.sdk.storage import Store

T = TypeVar("T")
_BATCH = 500

# Built once: putting a statement together takes longer than running it.
_THREAD = select(threads).where(threads.c.id == bindparam("wanted"))
_TAGS = select(tags.c.tag).where(tags.c.thread == bindparam("wanted")).order_by(tags.c.tag)
_MESSAGE = select(messages).where(messages.c.id == bindparam("wanted"))
_OUTLINE = (
    select(messages.c.id, messages.c.parent, messages.c.role, messages.c.status, messages.c.created_at)
    .where(messages.c.thread == bindparam("wanted"))
    .order_by(messages.c.number)
)
_NAMING = select(messages.c.thread, messages.c.parts).where(
    func.instr(messages.c.parts, attachments.NAMES_A_FILE) > 0
)
_PUT_MESSAGE = update(messages).where(messages.c.id == bindparam("wanted"))
_UP = text(
    "WITH RECURSIVE up(number, parent, steps) AS ("
    f" SELECT number, parent, 1 FROM {messages.name} WHERE id = :wanted"
    f" UNION ALL SELECT above.number, above.parent, steps + 1 FROM {messages.name} above"
    " JOIN up ON above.id = up.parent WHERE steps < :most)"
    " SELECT number FROM up"
)
_INDEX = {
    name: text(f"INSERT OR REPLACE INTO {name}(rowid, body) VALUES (:number, :body)")
    for name in (FOUND, TITLES)
}
_UNINDEX = {name: text(f"DELETE FROM {name} WHERE rowid = :number") for name in (FOUND, TITLES)}


class StoreRows:
    """Implements Rows on one transaction."""

    def __init__(self, connection: Connection, events: Events) -> None:
        self._connection = connection
        self._events = events
        self.dropped: list[str] = []
        """Blobs of files that were dropped: their bytes go once that is kept."""

    # threads

    def thread(self, id: str) -> Thread:
        """A thread."""
        row = self._connection.execute(_THREAD, {"wanted": id}).mappings().first()
        if row is None:
            raise no_thread(id)
        return as_thread(row, self._connection.execute(_TAGS, {"wanted": id}).scalars().all())

    def add_thread(self, thread: Thread) -> None:
        """Keep a new thread."""
        added = insert(threads).values(_thread_values(thread)).returning(threads.c.number)
        number = self._connection.execute(added).scalar_one()
        self._set_tags(thread)
        self._index(TITLES, number, thread.title)

    def put_thread(self, thread: Thread) -> None:
        """Keep a thread in place of what was kept of it."""
        before = self.thread(thread.id)
        changed = update(threads).where(threads.c.id == thread.id).values(_thread_values(thread))
        number = self._connection.execute(changed.returning(threads.c.number)).scalar_one()
        if thread.tags != before.tags:
            self._set_tags(thread)
        if thread.title != before.title:
            self._index(TITLES, number, thread.title)

    def _set_tags(self, thread: Thread) -> None:
        self._connection.execute(delete(tags).where(tags.c.thread == thread.id))
        if thread.tags:
            self._connection.execute(insert(tags), [{"thread": thread.id, "tag": tag} for tag in thread.tags])

    def drop_thread(self, id: str) -> None:
        """Drop a thread and all that belongs to it."""
        self.thread(id)
        number = self._connection.execute(select(threads.c.number).where(threads.c.id == id)).scalar_one()
        self._connection.execute(_UNINDEX[TITLES], {"number": number})
        self.drop_messages([each.id for each in self.outline(id)])
        self.dropped += attachments.drop_all(self._connection, id)
        for table in (queue, runs, tags):
            self._connection.execute(delete(table).where(table.c.thread == id))
        self._connection.execute(delete(threads).where(threads.c.id == id))

    # messages

    def message(self, id: str) -> Message:
        """A message."""
        row = self._connection.execute(_MESSAGE, {"wanted": id}).mappings().first()
        if row is None:
            raise no_message(id)
        return as_message(row)

    def add_message(self, message: Message) -> None:
        """Keep a new message."""
        added = insert(messages).returning(messages.c.number)
        number = self._connection.execute(added, _message_values(message)).scalar_one()
        if message.status != "writing":
            self._index(FOUND, number, searchable(message.parts))

    def put_message(self, message: Message) -> None:
        """Keep a message in place of what was kept of it."""
        before = self._connection.execute(_MESSAGE, {"wanted": message.id}).mappings().first()
        if before is None:
            raise no_message(message.id)
        values = _message_values(message)
        changed = {name: value for name, value in values.items() if before[name] != value}
        if changed:
            self._connection.execute(_PUT_MESSAGE.values(changed), {"wanted": message.id})
        if message.status != "writing" and changed.keys() & {"parts", "status"}:
            self._index(FOUND, before["number"], searchable(message.parts))

    def drop_messages(self, ids: Sequence[str]) -> None:
        """Drop messages."""
        naming: list[RowMapping] = []
        for start in range(0, len(ids), _BATCH):
            some = messages.c.id.in_(ids[start : start + _BATCH])
            naming += self._connection.execute(_NAMING.where(some)).mappings().all()
            numbers = self._connection.execute(select(messages.c.number).where(some)).scalars().all()
            self._connection.execute(_UNINDEX[FOUND], [{"number": number} for number in numbers])
            self._connection.execute(delete(messages).where(some))
        for thread in {row["thread"] for row in naming}:
            its = [row["parts"] for row in naming if row["thread"] == thread]
            self.drop_attachments(thread, {blob for parts in its for blob in attachments.blobs_in(parts)})

    def _index(self, table: str, number: int, body: str) -> None:
        if words := indexed(body):
            self._connection.execute(_INDEX[table], {"number": number, "body": words})
        else:
            self._connection.execute(_UNINDEX[table], {"number": number})

    def children(self, thread: str, parents: Sequence[str | None]) -> list[Outline]:
        """All children of these messages."""
        found: list[Outline] = []
        named = [parent for parent in parents if parent is not None]
        for start in range(0, len(named), _BATCH):
            found += self._outlines(messages.c.parent.in_(named[start : start + _BATCH]), thread)
        if len(named) < len(parents):
            found += self._outlines(messages.c.parent.is_(None), thread)
        return found

    def _outlines(self, condition: Any, thread: str) -> list[Outline]:
        rows = self._connection.execute(_OUTLINE.where(condition), {"wanted": thread})
        return [Outline(*row) for row in rows]

    def path(self, message: str, limit: int | None = None) -> list[Message]:
        """The messages that lead to `message`."""
        numbers = self._connection.execute(_UP, {"wanted": message, "most": limit or 1 << 30}).scalars().all()
        if not numbers:
            raise no_message(message)
        found: list[Message] = []
        for start in range(0, len(numbers), _BATCH):
            some = messages.c.number.in_(numbers[start : start + _BATCH])
            rows = self._connection.execute(select(messages).where(some).order_by(messages.c.depth.desc()))
            found += [as_message(row) for row in rows.mappings()]
        return found[::-1]

    def leads_to(self, message: str, end: str) -> bool:
        """Whether `message` lies on the way to `end`, or is it."""
        numbers = self._connection.execute(_UP, {"wanted": end, "most": 1 << 30}).scalars()
        wanted = select(messages.c.number).where(messages.c.id == message)
        return self._connection.execute(wanted).scalar() in set(numbers)

    def outline(self, thread: str) -> list[Outline]:
        """All messages of a tree."""
        return [Outline(*row) for row in self._connection.execute(_OUTLINE, {"wanted": thread})]

    def pinned(self, thread: str) -> list[Message]:
        """The pinned messages of a tree."""
        wanted = and_(messages.c.thread == thread, messages.c.is_pinned)
        rows = self._connection.execute(select(messages).where(wanted).order_by(messages.c.number))
        return [as_message(row) for row in rows.mappings()]

    # what waits, and runs

    def queue(self, thread: str) -> list[Queued]:
        """What waits to be sent."""
        query = select(queue).where(queue.c.thread == thread).order_by(queue.c.number)
        return [
            Queued(
                row["id"],
                row["thread"],
                row["created_at"],
                PARTS.validate_json(row["parts"]),
                orjson.loads(row["options"]),
            )
            for row in self._connection.execute(query).mappings()
        ]

    def put_queued(self, queued: Queued) -> None:
        """Keep one that waits."""
        values = {
            "thread": queued.thread,
            "created_at": queued.created_at,
            "parts": PARTS.dump_json(queued.parts).decode(),
            "options": _json(queued.options),
        }
        changed = self._connection.execute(update(queue).where(queue.c.id == queued.id).values(values))
        if changed.rowcount == 0:
            self._connection.execute(insert(queue).values(id=queued.id, **values))

    def drop_queued(self, id: str) -> None:
        """Drop one that waits."""
        if self._connection.execute(delete(queue).where(queue.c.id == id)).rowcount == 0:
            raise no_queued(id)

    def attachment(self, thread: str, blob: str) -> Attachment:
        """A file of this thread."""
        for found in attachments.of_thread(self._connection, thread, blob):
            return found
        raise no_attachment(blob)

    def attachments(self, thread: str) -> list[Attachment]:
        """All files of a thread."""
        self.thread(thread)
        return attachments.of_thread(self._connection, thread)

    def add_attachment(self, attachment: Attachment) -> None:
        """Keep what is said of a file."""
        attachments.add(self._connection, attachment)

    def drop_attachments(self, thread: str, blobs: Collection[str]) -> None:
        """Drop those of these files that nothing names."""
        self.dropped += attachments.drop(self._connection, thread, blobs)

    def run(self, id: str) -> RunRecord:
        """A run."""
        row = self._connection.execute(select(runs).where(runs.c.id == id)).mappings().first()
        if row is None:
            raise no_run(id)
        return RunRecord(
            **{**row, "context": None if row["context"] is None else orjson.loads(row["context"])}
        )

    def put_run(self, run: RunRecord) -> None:
        """Keep a run."""
        values = {**asdict(run), "context": None if run.context is None else _json(run.context)}
        changed = self._connection.execute(update(runs).where(runs.c.id == run.id).values(values))
        if changed.rowcount == 0:
            self._connection.execute(insert(runs).values(values))

    def tell(self, event: Event) -> None:
        """Tell of what was done: recorded, so that nobody misses it."""
        self._events.record(self._connection, event)


class StoreArchive:
    """Implements Archive on the store, and blobs beside it."""

    def __init__(self, store: Store, events: Events, blobs: Blobs) -> None:
        self._store = store
        self._events = events
        self._blobs = blobs

    async def read(self, work: Callable[[StoreRows], T]) -> T:
        """What `work` read."""
        return await self._store.read(lambda connection: work(StoreRows(connection, self._events)))

    async def write(self, work: Callable[[StoreRows], T]) -> T:
        """Run `work` in a transaction."""

        def working(connection: Connection) -> tuple[T, list[str]]:
            rows = StoreRows(connection, self._events)
            return work(rows), rows.dropped

        done, dropped = await self._store.write(working)
        if dropped:  # a kill just before this leaves them to `sweep`; without their keys they are noise
            await self._blobs.delete(dropped)
        return done

    async def put_bytes(self, data: bytes) -> tuple[str, bytes]:
        """Seal the bytes of a file under a key of its own."""
        key = secrets.token_bytes(KEY_BYTES)
        return await self._blobs.put(data, key), key

    async def bytes_of(self, attachment: Attachment) -> bytes:
        """The bytes of a file."""
        return await self._blobs.get(attachment.blob, attachment.key)

    async def drop_bytes(self, blobs: Sequence[str]) -> None:
        """Drop bytes for which no row came."""
        await self._blobs.delete(blobs)

    async def sweep(self) -> None:
        """Drop bytes that no row names, as a crash leaves them. For the start, before any are put."""
        left = {*await self._blobs.all()} - await self._store.read(attachments.all_blobs)
        await self._blobs.delete(left)


def as_thread(row: RowMapping, tags: Sequence[str]) -> Thread:
    """A thread from its row and its tags."""
    fields = {name: value for name, value in row.items() if name != "number"}
    fields["parameters"] = orjson.loads(row["parameters"])
    fields["context"] = ContextPolicy(**orjson.loads(row["context"]))
    return Thread(**fields, tags=tuple(tags))


def as_message(row: RowMapping) -> Message:
    """A message from its row."""
    fields = {name: value for name, value in row.items() if name != "number"}
    fields["parts"] = PARTS.validate_json(row["parts"])
    fields["error"] = None if row["error"] is None else orjson.loads(row["error"])
    for name in ("parameters", "usage", "timings"):
        fields[name] = orjson.loads(row[name])
    return Message(**fields)


def _thread_values(thread: Thread) -> dict[str, Any]:
    values = {name: getattr(thread, name) for name in threads.c.keys() if name != "number"}  # noqa: SIM118
    return values | {"parameters": _json(thread.parameters), "context": _json(asdict(thread.context))}


def _message_values(message: Message) -> dict[str, Any]:
    values = {name: getattr(message, name) for name in messages.c.keys() if name != "number"}  # noqa: SIM118
    values |= {name: _json(values[name]) for name in ("parameters", "usage", "timings")}
    values["parts"] = PARTS.dump_json(message.parts).decode()
    values["error"] = None if message.error is None else _json(message.error)
    return values


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
