"""Search over messages and titles, newest first or best match first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, column, select, table, text

from allod.extensions.conversational.parts import PARTS, searchable
from allod.extensions.conversational.store.tables import FOUND, TITLES, messages, threads

Order = Literal["newest", "best"]
_found = table(FOUND, column("rowid"), column("rank"))
_titles = table(TITLES, column("rowid"), column("rank"))
_TITLES = 10


@dataclass(frozen=True, slots=True)
class Filters:
    """Only what is of a project, an assistant, a model, a role, a thread, or a time (seconds since 1970)."""

    project: str | None = None
    assistant: str | None = None
    model: str | None = None
    role: str | None = None
    thread: str | None = None
    after: float | None = None
    before: float | None = None

    @property
    def of_messages(self) -> bool:
        """Whether anything is asked for that a title does not have."""
        return any(value is not None for value in (self.model, self.role, self.thread))


@dataclass(frozen=True, slots=True)
class Hit:
    """A message, or a thread by its title (then `message` is None). `body` is the text in which the words are."""

    thread: str
    title: str
    message: str | None
    role: str | None
    at: float
    body: str


def search(
    connection: Connection, match: str, filters: Filters, order: Order, limit: int, offset: int = 0
) -> list[Hit]:
    """What matches an FTS5 expression, at most `limit` messages; on the first page some titles before them."""
    hits = [] if offset or filters.of_messages else _in_titles(connection, match, filters, order)
    return hits + _in_messages(connection, match, filters, order, limit, offset)


def _in_titles(connection: Connection, match: str, filters: Filters, order: Order) -> list[Hit]:
    query: Select[Any] = (
        select(threads.c.id, threads.c.title, threads.c.changed_at)
        .join_from(_titles, threads, threads.c.number == _titles.c.rowid)
        .where(text(f"{TITLES} MATCH :match"))
    )
    query = _of_threads(query, filters, threads.c.changed_at)
    query = query.order_by(_titles.c.rank if order == "best" else threads.c.changed_at.desc()).limit(_TITLES)
    rows = connection.execute(query, {"match": match})
    return [Hit(row.id, row.title, None, None, row.changed_at, row.title) for row in rows]


def _in_messages(
    connection: Connection, match: str, filters: Filters, order: Order, limit: int, offset: int
) -> list[Hit]:
    query: Select[Any] = (
        select(
            messages.c.id,
            messages.c.thread,
            messages.c.role,
            messages.c.created_at,
            messages.c.parts,
            threads.c.title,
        )
        .join_from(_found, messages, messages.c.number == _found.c.rowid)
        .join(threads, threads.c.id == messages.c.thread)
        .where(text(f"{FOUND} MATCH :match"))
    )
    query = _of_threads(query, filters, messages.c.created_at)
    for name in ("model", "role", "thread"):
        if (value := getattr(filters, name)) is not None:
            query = query.where(messages.c[name] == value)
    # the newest rows have the highest numbers, so FTS5 can stop as soon as it has enough
    query = query.order_by(_found.c.rank if order == "best" else _found.c.rowid.desc())
    rows = connection.execute(query.limit(limit).offset(offset), {"match": match})
    return [
        Hit(
            row.thread,
            row.title,
            row.id,
            row.role,
            row.created_at,
            searchable(PARTS.validate_json(row.parts)),
        )
        for row in rows
    ]


def _of_threads(query: Select[Any], filters: Filters, at: Any) -> Select[Any]:
    query = query.where(threads.c.deleted_at.is_(None))
    if filters.project is not None:
        query = query.where(threads.c.project == filters.project)
    if filters.assistant is not None:
        query = query.where(threads.c.assistant == filters.assistant)
    if filters.after is not None:
        query = query.where(at >= filters.after)
    if filters.before is not None:
        query = query.where(at < filters.before)
    return query


def within(connection: Connection, thread: str, match: str, limit: int) -> Sequence[str]:
    """The ids of messages of one thread that match, best match first."""
    query = (
        select(messages.c.id)
        .join_from(_found, messages, messages.c.number == _found.c.rowid)
        .where(text(f"{FOUND} MATCH :match"), messages.c.thread == thread)
        .order_by(_found.c.rank)
        .limit(limit)
    )
    return connection.execute(query, {"match": match}).scalars().all()


def optimize(connection: Connection) -> None:
    """Merge the index, so that no word of a deleted text is left in it."""
    for name in (FOUND, TITLES):
        connection.execute(text(f"INSERT INTO {name}({name}) VALUES ('optimize')"))
