"""Whose tables a statement may touch: asked by SQLite each time that it prepares one."""

from __future__ import annotations

import sqlite3

KERNEL = "kernel"
"""The owner of Allod's own tables, who may touch all others too."""

# What the authorizer's numbers mean (sqlite3.h): actions whose first argument is a table, and whose second is.
_ON_FIRST = {
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_DROP_VTABLE,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_ANALYZE,
}
_ON_SECOND = {
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_ALTER_TABLE,
}
_REFUSED = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_TRANSACTION}
_ALEMBIC_COPY = "_alembic_tmp_"
_HARMLESS = {"cipher_version", "data_version"}  # the second is what full-text tables ask themselves
_LOOKING = {"table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"}


class Rights:
    """Whose tables may be touched by the statements that are prepared on one connection now."""

    def __init__(self) -> None:
        self.owner = KERNEL
        self.prepared_for = ""

    def judge(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        """Whether a statement may do `action`; sqlite3.h says what the arguments are for each."""
        if self.owner == KERNEL:
            return sqlite3.SQLITE_OK
        if action in _REFUSED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA:  # looking at its own tables is fine, setting anything is not
            may = first in _HARMLESS or (first in _LOOKING and self._is_own(second))
            return sqlite3.SQLITE_OK if may else sqlite3.SQLITE_DENY
        name = first if action in _ON_FIRST else second if action in _ON_SECOND else None
        return sqlite3.SQLITE_OK if name is None or self._is_own(name) else sqlite3.SQLITE_DENY

    def _is_own(self, name: str | None) -> bool:
        name = (name or "").removeprefix(_ALEMBIC_COPY)
        return name.startswith((f"{self.owner}__", "sqlite_"))
