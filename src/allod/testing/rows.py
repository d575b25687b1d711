"""Rows for tables that nobody knows: a few in each, by the types of its columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, MetaData, Table, func, inspect, select
from sqlalchemy.exc import IntegrityError

_ROWS = 3


def fill(connection: Connection, prefix: str) -> None:
    """Put a few rows into each table whose name begins with `prefix`, those that others refer to first.

    A table whose constraints refuse rows made up like this stays empty; a virtual one is left alone.
    """
    for table in _tables(connection, prefix):
        for number in range(1, _ROWS + 1):
            row = {column.name: _value(column, number) for column in table.columns if _wants_value(column)}
            try:
                with connection.begin_nested():
                    connection.execute(table.insert(), row)
            except IntegrityError:
                break


def row_counts(connection: Connection, prefix: str) -> dict[str, int]:
    """How many rows each table holds."""
    return {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in _tables(connection, prefix)
    }


def _tables(connection: Connection, prefix: str) -> list[Table]:
    virtual = connection.exec_driver_sql(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
    ).scalars()
    apart = tuple(virtual)
    names = [
        name
        for name in inspect(connection).get_table_names()
        if name.startswith(prefix) and not any(name == each or name.startswith(f"{each}_") for each in apart)
    ]
    metadata = MetaData()
    if names:  # an empty list would mean all
        metadata.reflect(connection, only=names)
    return [table for table in metadata.sorted_tables if table.name in names]


def _wants_value(column: Any) -> bool:
    return column.server_default is None and column.computed is None


def _value(column: Any, number: int) -> Any:
    if column.foreign_keys:
        return number if column.type.python_type is int else f"row {number}"
    kind = column.type.python_type
    if kind is str:
        return f"row {number}"
    if kind is bytes:
        return bytes([number])
    return kind(number)
