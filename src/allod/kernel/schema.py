"""All that the kernel itself keeps: its tables, and the steps by which they came to be. A released step never changes.

Times are seconds since 1970. JSON stands in TEXT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Boolean, Column, Float, Index, Integer, MetaData, String, Table

from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from alembic.operations import Operations

metadata = MetaData()

settings = Table(
    "kernel__settings",
    metadata,
    Column("namespace", String, primary_key=True),
    Column("field", String, primary_key=True),
    Column("value", String, nullable=False),  # JSON
    Column("changed_at", Float, nullable=False),
)
secrets = Table(
    "kernel__secrets",
    metadata,
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
    Column("changed_at", Float, nullable=False),
)
facts = Table(  # single values of the kernel's own, such as the offline switch
    "kernel__facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),  # JSON
)
extensions = Table(  # only those that the user has switched off
    "kernel__extensions",
    metadata,
    Column("name", String, primary_key=True),
    Column("enabled", Boolean, nullable=False),
)
api_keys = Table(
    "kernel__api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sha256", String, nullable=False, unique=True),
    Column("rights", String, nullable=False),  # JSON list
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
)
sessions = Table(
    "kernel__sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("cookie_sha256", String, nullable=False, unique=True),
    Column("header_sha256", String, nullable=False),
    Column("label", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)
jobs = Table(
    "kernel__jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("position", Integer, nullable=False),  # the order in which they were asked for
    Column("extension", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("parameters", String, nullable=False),  # JSON
    Column("status", String, nullable=False),
    Column("state", String, nullable=False),  # JSON: what the job itself saved
    Column("done", Float, nullable=False),
    Column("total", Float, nullable=False),
    Column("note", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("result", String),  # JSON
    Column("error", String, nullable=False),
    Column("fix", String, nullable=False),
    Index("kernel__jobs_by_status", "status", "position"),
    Index("kernel__jobs_by_position", "position"),
)
outbox = Table(
    "kernel__outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("source", String, nullable=False),  # the extension that recorded it
    Column("name", String, nullable=False),  # the event's class
    Column("fields", String, nullable=False),  # JSON
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice
)
cursors = Table(  # up to which event of the outbox a subscriber has heard
    "kernel__cursors",
    metadata,
    Column("subscriber", String, primary_key=True),
    Column("event", Integer, nullable=False),
)
grants = Table(
    "kernel__grants",
    metadata,
    Column("id", String, primary_key=True),
    Column("extension", String, nullable=False),
    Column("purpose", String, nullable=False),  # "*": any
    Column("host", String, nullable=False),
    Column("once", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)
ledger = Table(  # every request to the world, and every one that was refused; never what it said
    "kernel__ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("extension", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("host", String, nullable=False),
    Column("method", String, nullable=False),
    Column("verdict", String, nullable=False),  # allowed, or why it was refused
    Column("status", Integer),  # HTTP status, none if no answer came
    Column("sent_bytes", Integer, nullable=False),
    Column("received_bytes", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    Index("kernel__ledger_by_time", "at"),
    sqlite_autoincrement=True,
)


def _first(op: Operations) -> None:
    text, number, real = String, Integer, Float
    op.create_table(
        "kernel__settings",
        Column("namespace", text, primary_key=True),
        Column("field", text, primary_key=True),
        Column("value", text, nullable=False),
        Column("changed_at", real, nullable=False),
    )
    op.create_table(
        "kernel__secrets",
        Column("owner", text, primary_key=True),
        Column("name", text, primary_key=True),
        Column("value", text, nullable=False),
        Column("changed_at", real, nullable=False),
    )
    op.create_table(
        "kernel__facts", Column("name", text, primary_key=True), Column("value", text, nullable=False)
    )
    op.create_table(
        "kernel__extensions",
        Column("name", text, primary_key=True),
        Column("enabled", Boolean, nullable=False),
    )
    op.create_table(
        "kernel__api_keys",
        Column("id", text, primary_key=True),
        Column("name", text, nullable=False),
        Column("sha256", text, nullable=False, unique=True),
        Column("rights", text, nullable=False),
        Column("created_at", real, nullable=False),
        Column("expires_at", real),
        Column("last_used_at", real),
    )
    op.create_table(
        "kernel__sessions",
        Column("id", text, primary_key=True),
        Column("cookie_sha256", text, nullable=False, unique=True),
        Column("header_sha256", text, nullable=False),
        Column("label", text, nullable=False),
        Column("created_at", real, nullable=False),
        Column("last_used_at", real, nullable=False),
        Column("expires_at", real, nullable=False),
    )
    op.create_table(
        "kernel__jobs",
        Column("id", text, primary_key=True),
        Column("position", number, nullable=False),
        Column("extension", text, nullable=False),
        Column("kind", text, nullable=False),
        Column("parameters", text, nullable=False),
        Column("status", text, nullable=False),
        Column("state", text, nullable=False),
        Column("done", real, nullable=False),
        Column("total", real, nullable=False),
        Column("note", text, nullable=False),
        Column("attempts", number, nullable=False),
        Column("created_at", real, nullable=False),
        Column("changed_at", real, nullable=False),
        Column("result", text),
        Column("error", text, nullable=False),
        Column("fix", text, nullable=False),
    )
    op.create_index("kernel__jobs_by_status", "kernel__jobs", ["status", "position"])
    op.create_index("kernel__jobs_by_position", "kernel__jobs", ["position"])
    op.create_table(
        "kernel__outbox",
        Column("id", number, primary_key=True, autoincrement=True),
        Column("source", text, nullable=False),
        Column("name", text, nullable=False),
        Column("fields", text, nullable=False),
        Column("at", real, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "kernel__cursors",
        Column("subscriber", text, primary_key=True),
        Column("event", number, nullable=False),
    )
    op.create_table(
        "kernel__grants",
        Column("id", text, primary_key=True),
        Column("extension", text, nullable=False),
        Column("purpose", text, nullable=False),
        Column("host", text, nullable=False),
        Column("once", Boolean, nullable=False),
        Column("created_at", real, nullable=False),
    )
    op.create_table(
        "kernel__ledger",
        Column("id", number, primary_key=True, autoincrement=True),
        Column("at", real, nullable=False),
        Column("extension", text, nullable=False),
        Column("purpose", text, nullable=False),
        Column("host", text, nullable=False),
        Column("method", text, nullable=False),
        Column("verdict", text, nullable=False),
        Column("status", number),
        Column("sent_bytes", number, nullable=False),
        Column("received_bytes", number, nullable=False),
        Column("duration_s", real, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("kernel__ledger_by_time", "kernel__ledger", ["at"])


MIGRATIONS: Sequence[Migration] = (Migration(1, "settings, keys, jobs, events, egress", _first),)
"""The kernel's own steps."""
