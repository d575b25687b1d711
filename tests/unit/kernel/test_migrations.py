"""Numbered steps: all that are due or none, with a copy from before, and never from a newer version back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, inspect, text

from allod.kernel import schema
from allod.kernel.authorizer import KERNEL
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database
from allod.sdk.errors import MigrationFailed
from allod.sdk.storage import Migration

KEY = bytes(range(32))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "allod.db", KEY)
    yield opened
    opened.dispose()


@pytest.fixture
def migrator(database: Database, tmp_path: Path) -> Migrator:
    return Migrator(database, tmp_path / "backups")


def create(op: Any) -> None:
    op.create_table("ann__words", Column("id", Integer, primary_key=True), Column("word", String))


def fill(op: Any) -> None:
    op.execute("INSERT INTO ann__words (word) VALUES ('kept')")


def widen(op: Any) -> None:
    op.add_column("ann__words", Column("size", Integer, server_default="7"))


def fail(op: Any) -> None:
    op.execute("DELETE FROM ann__words")
    raise RuntimeError("what the user wrote")


def steps(*ups: Any) -> list[Migration]:
    return [Migration(number, up.__name__, up) for number, up in enumerate(ups, 1)]


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.transaction(KERNEL) as connection:
        return [tuple(row) for row in connection.execute(text("SELECT * FROM ann__words"))]


def test_each_step_is_taken_once(migrator: Migrator, database: Database) -> None:
    assert migrator.bring_up("ann", steps(create, fill)) == [1, 2]
    assert migrator.bring_up("ann", steps(create, fill)) == []
    assert migrator.bring_up("ann", steps(create, fill, widen)) == [3]
    assert rows(database) == [(1, "kept", 7)]


def test_a_copy_is_taken_before_and_opens(migrator: Migrator, database: Database, tmp_path: Path) -> None:
    migrator.bring_up("ann", steps(create, fill))
    assert not (tmp_path / "backups").exists()  # there was nothing to lose
    migrator.bring_up("ann", steps(create, fill, widen))
    (copy,) = (tmp_path / "backups").iterdir()
    before = Database(copy, KEY)
    assert rows(before) == [(1, "kept")]
    before.dispose()


def test_old_copies_go(migrator: Migrator, tmp_path: Path) -> None:
    ups = [create, *[fill] * 6]
    for number in range(1, len(ups) + 1):
        migrator.bring_up("ann", steps(*ups[:number]))
    assert len(list((tmp_path / "backups").iterdir())) == 3


def test_if_one_fails_none_was_taken(
    migrator: Migrator, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    migrator.bring_up("ann", steps(create, fill))
    with pytest.raises(MigrationFailed) as failed:
        migrator.bring_up("ann", steps(create, fill, widen, fail))
    assert "Migration 4" in failed.value.detail
    assert "what the user wrote" not in failed.value.message
    assert rows(database) == [(1, "kept")]
    assert migrator.bring_up("ann", steps(create, fill)) == []  # the version before still works
    assert database.problems() == []


def test_a_table_that_is_made_anew_keeps_the_rows_that_refer_to_it(
    migrator: Migrator, database: Database
) -> None:
    def two(op: Any) -> None:
        op.create_table("ann__thread", Column("id", Integer, primary_key=True), Column("title", String))
        thread = ForeignKey("ann__thread.id", ondelete="CASCADE")
        op.create_table(
            "ann__message", Column("id", Integer, primary_key=True), Column("thread", Integer, thread)
        )
        op.execute("INSERT INTO ann__thread VALUES (1, 'x')")
        op.execute("INSERT INTO ann__message VALUES (1, 1), (2, 1)")

    def rebuild(op: Any) -> None:
        with op.batch_alter_table("ann__thread") as thread:
            thread.alter_column("title", nullable=False)

    def orphan(op: Any) -> None:
        op.execute("DELETE FROM ann__thread")

    migrator.bring_up("ann", steps(two, rebuild))
    with database.transaction(KERNEL) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM ann__message").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with pytest.raises(MigrationFailed, match="refer to nothing"):
        migrator.bring_up("ann", steps(two, rebuild, orphan))
    with database.transaction(KERNEL) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM ann__thread").scalar() == 1


def test_newer_tables_are_left_alone(migrator: Migrator, database: Database) -> None:
    migrator.bring_up("ann", steps(create, fill, widen))
    with pytest.raises(MigrationFailed, match=r"of version 3; this program knows 2"):
        migrator.bring_up("ann", steps(create, fill))
    assert rows(database) == [(1, "kept", 7)]


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (1, 1), (0, 1)])
def test_numbers_leave_none_out(migrator: Migrator, numbers: tuple[int, ...]) -> None:
    with pytest.raises(MigrationFailed, match="not numbered"):
        migrator.bring_up("ann", [Migration(number, "x", create) for number in numbers])


def test_only_its_own_tables_are_in_reach(migrator: Migrator, database: Database) -> None:
    for statement in ("CREATE TABLE bob__words (x)", "COMMIT", "DROP TABLE kernel__migrations"):
        with pytest.raises(MigrationFailed, match="not its own"):
            migrator.bring_up("ann", [Migration(1, "x", lambda op, s=statement: op.execute(s))])  # type: ignore[misc]
    with database.transaction(KERNEL) as connection:
        assert inspect(connection).get_table_names() == ["kernel__migrations"]


def test_the_kernel_s_steps_make_what_its_tables_say(migrator: Migrator, database: Database) -> None:
    migrator.bring_up(KERNEL, schema.MIGRATIONS)
    made = MetaData()
    with database.transaction(KERNEL) as connection:
        made.reflect(connection)
        for table in schema.metadata.sorted_tables:
            assert _columns(made.tables[table.name]) == _columns(table)
            assert _indexes(made.tables[table.name]) == _indexes(table)
        assert {name for name in made.tables if name != "kernel__migrations"} == set(schema.metadata.tables)


def _columns(table: Table) -> set[tuple[str, str, bool, bool]]:
    return {(each.name, str(each.type), bool(each.nullable), each.primary_key) for each in table.columns}


def _indexes(table: Table) -> set[tuple[str | None, tuple[str, ...]]]:
    return {(str(index.name), tuple(column.name for column in index.columns)) for index in table.indexes}
