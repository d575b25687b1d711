"""The rows of attached files: what is said of each, and the key of its bytes, which are a blob."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, insert, select

from allod.extensions.conversational.records import Attachment
from allod.extensions.conversational.store.tables import attachments, messages, queue

NAMES_A_FILE = '"blob":'
"""Stands in the parts of a message that names a file, and in no others: quotes in a text are escaped."""


def of_thread(connection: Connection, thread: str, blob: str | None = None) -> list[Attachment]:
    """The files of a thread, oldest first; or only this one."""
    query = select(attachments).where(attachments.c.thread == thread)
    if blob is not None:
        query = query.where(attachments.c.blob == blob)
    rows = connection.execute(query.order_by(attachments.c.created_at, attachments.c.blob))
    return [Attachment(**row) for row in rows.mappings()]


def add(connection: Connection, made: Attachment) -> None:
    """Keep what is said of a file."""
    values: dict[str, Any] = {name: getattr(made, name) for name in attachments.c.keys()}  # noqa: SIM118
    connection.execute(insert(attachments).values(values))


def drop(connection: Connection, thread: str, blobs: Collection[str]) -> list[str]:
    """Drop those of these files that nothing in the thread names. Gives their blobs."""
    gone = sorted({*blobs} - named(connection, thread))
    for blob in gone:
        this = (attachments.c.thread == thread) & (attachments.c.blob == blob)
        connection.execute(delete(attachments).where(this))
    return gone


def drop_all(connection: Connection, thread: str) -> list[str]:
    """Drop all files of a thread. Gives their blobs."""
    dropped = delete(attachments).where(attachments.c.thread == thread).returning(attachments.c.blob)
    return list(connection.execute(dropped).scalars())


def named(connection: Connection, thread: str) -> set[str]:
    """The blobs that messages of the thread name, also those that wait."""
    found: set[str] = set()
    for table in (messages, queue):
        names = func.instr(table.c.parts, NAMES_A_FILE) > 0
        for parts in connection.execute(
            select(table.c.parts).where(table.c.thread == thread, names)
        ).scalars():
            found |= set(blobs_in(parts))
    return found


def blobs_in(parts: str) -> Iterator[str]:
    """The blobs that parts, as they are kept, name."""
    for part in orjson.loads(parts):
        if "blob" in part:
            yield part["blob"]


def all_blobs(connection: Connection) -> set[str]:
    """The blobs of all files of all threads."""
    return set(connection.execute(select(attachments.c.blob)).scalars())
