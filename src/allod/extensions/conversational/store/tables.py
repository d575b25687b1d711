"""The tables, and how they came to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, text

from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from alembic.operations import Operations

_metadata = MetaData()

threads = Table(
    "conversational__threads",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String),
    Column("created_at", Float),
    Column("changed_at", Float),
    Column("title", String),
    Column("title_source", String),
    Column("project", String),
    Column("assistant", String),
    Column("instructions", String),
    Column("model", String),
    Column("parameters", String),  # JSON
    Column("context", String),  # JSON
    Column("is_favourite", Boolean),
    Column("archived_at", Float),
    Column("deleted_at", Float),
    Column("active", String),
    Column("draft", String),
    Column("messages", Integer),
    Column("kept_from", String),
    Column("summary", String),
    Column("summary_upto", String),
)
tags = Table("conversational__tags", _metadata, Column("thread", String), Column("tag", String))
messages = Table(
    "conversational__messages",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String),
    Column("thread", String),
    Column("parent", String),
    Column("depth", Integer),
    Column("role", String),
    Column("parts", String),  # JSON
    Column("created_at", Float),
    Column("status", String),
    Column("error", String),  # JSON
    Column("is_pinned", Boolean),
    Column("chosen", String),
    Column("model", String),
    Column("parameters", String),  # JSON
    Column("seed", Integer),
    Column("assistant", String),
    Column("assistant_version", Integer),
    Column("usage", String),  # JSON
    Column("timings", String),  # JSON
)
queue = Table(
    "conversational__queue",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String),
    Column("thread", String),
    Column("created_at", Float),
    Column("parts", String),  # JSON
    Column("options", String),  # JSON
)
runs = Table(
    "conversational__runs",
    _metadata,
    Column("id", String, primary_key=True),
    Column("thread", String),
    Column("message", String),
    Column("created_at", Float),
    Column("state", String),
    Column("ended_at", Float),
    Column("context", String),  # JSON
)
projects = Table(
    "conversational__projects",
    _metadata,
    Column("id", String, primary_key=True),
    Column("name", String),
    Column("created_at", Float),
    Column("assistant", String),
)
attachments = Table(
    "conversational__attachments",
    _metadata,
    Column("blob", String, primary_key=True),
    Column("thread", String),
    Column("name", String),
    Column("media_type", String),
    Column("size_bytes", Integer),
    Column("created_at", Float),
    Column("key", LargeBinary),  # of the blob: with the row the bytes are lost, wherever copies of them lie
)
FOUND, TITLES = "conversational__found", "conversational__titles"
"""Full text of messages and of titles: FTS5 tables that hold words only, by the numbers of the rows."""


def _first(op: Operations) -> None:
    _create_threads(op)
    _create_messages(op)
    op.create_table(
        "conversational__queue",
        Column("number", Integer, primary_key=True),
        Column("id", String, nullable=False, unique=True),
        Column("thread", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("parts", String, nullable=False),
        Column("options", String, nullable=False),
    )
    op.create_index("conversational__queue_by_thread", "conversational__queue", ["thread", "number"])
    op.create_table(
        "conversational__runs",
        Column("id", String, primary_key=True),
        Column("thread", String, nullable=False),
        Column("message", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("state", String, nullable=False),
        Column("ended_at", Float),
        Column("context", String),
    )
    op.create_index("conversational__runs_by_thread", "conversational__runs", ["thread", "created_at"])
    op.create_table(
        "conversational__projects",
        Column("id", String, primary_key=True),
        Column("name", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("assistant", String, nullable=False),
    )
    op.create_table(
        "conversational__attachments",
        Column("blob", String, primary_key=True),
        Column("thread", String, nullable=False),
        Column("name", String, nullable=False),
        Column("media_type", String, nullable=False),
        Column("size_bytes", Integer, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("key", LargeBinary, nullable=False),
    )
    op.create_index("conversational__attachments_by_thread", "conversational__attachments", ["thread"])
    for table in (FOUND, TITLES):
        op.execute(
            f"CREATE VIRTUAL TABLE {table} USING fts5(body, content='', contentless_delete=1,"
            " tokenize='unicode61 remove_diacritics 2')"
        )
        # what is deleted is to leave no word behind in the index's pages
        op.execute(f"INSERT INTO {table}({table}, rank) VALUES ('secure-delete', 1)")


def _create_threads(op: Operations) -> None:
    op.create_table(
        "conversational__threads",
        Column("number", Integer, primary_key=True),
        Column("id", String, nullable=False, unique=True),
        Column("created_at", Float, nullable=False),
        Column("changed_at", Float, nullable=False),
        Column("title", String, nullable=False),
        Column("title_source", String, nullable=False),
        Column("project", String),
        Column("assistant", String, nullable=False),
        Column("instructions", String, nullable=False),
        Column("model", String, nullable=False),
        Column("parameters", String, nullable=False),
        Column("context", String, nullable=False),
        Column("is_favourite", Boolean, nullable=False),
        Column("archived_at", Float),
        Column("deleted_at", Float),
        Column("active", String),
        Column("draft", String, nullable=False),
        Column("messages", Integer, nullable=False),
        Column("kept_from", String),
        Column("summary", String, nullable=False),
        Column("summary_upto", String),
        sqlite_autoincrement=True,
    )
    op.create_index("conversational__threads_by_time", "conversational__threads", ["changed_at", "number"])
    op.create_index(
        "conversational__threads_by_project", "conversational__threads", ["project", "changed_at"]
    )
    op.create_table(
        "conversational__tags",
        Column("thread", String, primary_key=True),
        Column("tag", String, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("conversational__tags_by_tag", "conversational__tags", ["tag"])


def _create_messages(op: Operations) -> None:
    op.create_table(
        "conversational__messages",
        Column("number", Integer, primary_key=True),
        Column("id", String, nullable=False, unique=True),
        Column("thread", String, nullable=False),
        Column("parent", String),
        Column("depth", Integer, nullable=False),
        Column("role", String, nullable=False),
        Column("parts", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("status", String, nullable=False),
        Column("error", String),
        Column("is_pinned", Boolean, nullable=False),
        Column("chosen", String),
        Column("model", String, nullable=False),
        Column("parameters", String, nullable=False),
        Column("seed", Integer),
        Column("assistant", String, nullable=False),
        Column("assistant_version", Integer),
        Column("usage", String, nullable=False),
        Column("timings", String, nullable=False),
        sqlite_autoincrement=True,
    )
    # all that the outline of a tree needs, so that no text is read for it
    op.create_index(
        "conversational__messages_by_thread",
        "conversational__messages",
        ["thread", "number", "id", "parent", "role", "status", "created_at"],
    )
    op.create_index("conversational__messages_by_parent", "conversational__messages", ["thread", "parent"])
    op.create_index(
        "conversational__messages_pinned",
        "conversational__messages",
        ["thread"],
        sqlite_where=text("is_pinned"),
    )
    op.create_index(
        "conversational__messages_writing",
        "conversational__messages",
        ["status"],
        sqlite_where=text("status = 'writing'"),
    )


MIGRATIONS: Sequence[Migration] = (Migration(1, "threads, messages, runs and their words", _first),)
