"""The database: one writer, readers beside it, each extension in its own tables, and errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from allod.kernel import storage
from allod.kernel.authorizer import KERNEL
from allod.kernel.storage import Database, OwnStore
from allod.sdk.errors import ExtensionFailed, StoreBusy, StoreDamaged, StoreFull, StoreReadOnly

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
MARK = "ALLODCANARY5e1f"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "allod.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    opened = Database(file, KEY)
    with opened.transaction(KERNEL) as connection:
        connection.execute(text("CREATE TABLE ann__words (word TEXT UNIQUE)"))
        connection.execute(text("CREATE TABLE bob__words (word TEXT)"))
    yield opened
    opened.dispose()


def add(word: str, table: str = "ann__words") -> Any:
    return lambda connection: connection.execute(text(f"INSERT INTO {table} VALUES (:word)"), {"word": word})


def words(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT word FROM ann__words ORDER BY rowid")).scalars())


async def test_what_was_written_is_read_and_there_after_a_restart(database: Database, file: Path) -> None:
    await database.write(add("one"))
    assert await database.read(words) == ["one"]
    await database.close()
    again = Database(file, KEY)
    assert await again.read(words) == ["one"]
    again.dispose()


async def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def work(connection: Connection) -> None:
        add("one")(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(work)
    assert await database.read(words) == []


async def test_reads_go_on_during_a_write_and_see_one_moment(database: Database) -> None:
    await database.write(add("one"))
    in_write, may_end = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        add("two")(connection)
        in_write.set()
        assert may_end.wait(10)

    writing = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(in_write.wait)
    assert await database.read(words) == ["one"]
    may_end.set()
    await writing
    assert await database.read(words) == ["one", "two"]


async def test_writes_come_one_after_another(database: Database) -> None:
    await asyncio.gather(*(database.write(add(str(number))) for number in range(50)))
    assert await database.read(words) == [str(number) for number in range(50)]


def test_nothing_is_readable_in_any_file(database: Database, file: Path) -> None:
    with database.transaction(KERNEL) as connection:
        add(MARK)(connection)
    plain = file.with_name("plain")
    plain.write_text(MARK)  # the search finds what there is to find
    found = [each.name for each in file.parent.iterdir() if MARK.encode() in each.read_bytes()]
    assert found == ["plain"]
    assert not file.read_bytes().startswith(b"SQLite format 3")
    asyncio.run(database.close())
    assert MARK.encode() not in file.read_bytes()
    for each in file.parent.glob("allod.db*"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_a_wrong_key_opens_nothing_and_changes_nothing(database: Database, file: Path) -> None:
    database.dispose()
    before = file.read_bytes()
    with pytest.raises(StoreDamaged) as refused:
        Database(file, OTHER)
    assert "allod restore" in refused.value.fix
    assert file.read_bytes() == before


@pytest.mark.parametrize("size", [100, 4096, 6000])
def test_a_cut_file_is_damaged(database: Database, file: Path, size: int) -> None:
    with database.transaction(KERNEL) as connection:
        for number in range(2000):
            add(f"{number} {'x' * 50}")(connection)
    asyncio.run(database.close())
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(StoreDamaged):
        opened = Database(file, KEY)
        with opened.transaction(KERNEL) as connection:
            words(connection)


def test_a_flipped_byte_is_found_where_it_is_read(database: Database, file: Path) -> None:
    with database.transaction(KERNEL) as connection:
        for number in range(2000):
            add(f"{number} {'x' * 50}")(connection)
    asyncio.run(database.close())
    whole = file.read_bytes()
    for place in (20, 5000, len(whole) // 2, len(whole) - 10):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        file.write_bytes(bytes(flipped))
        with pytest.raises(StoreDamaged):
            opened = Database(file, KEY)
            try:
                assert opened.problems() == []
            except AssertionError:
                raise StoreDamaged("the check found it") from None
            finally:
                opened.dispose()


# owners


async def test_an_extension_sees_its_own_tables_only(database: Database) -> None:
    ann = OwnStore(database, "ann")
    await ann.write(add("hers"))
    assert await ann.read(words) == ["hers"]
    refused = [
        "SELECT * FROM bob__words",
        "SELECT a.word FROM ann__words a JOIN bob__words b ON a.word = b.word",
        "INSERT INTO bob__words VALUES ('x')",
        "UPDATE bob__words SET word = 'x'",
        "DELETE FROM bob__words",
        "DROP TABLE bob__words",
        "CREATE TABLE mine (x)",
        "CREATE TABLE bob__more (x)",
        "CREATE INDEX ann__i ON bob__words (word)",
        "CREATE TRIGGER ann__t AFTER INSERT ON bob__words BEGIN SELECT 1; END",
        "ALTER TABLE bob__words ADD COLUMN y",
        "ATTACH ':memory:' AS other",
        "PRAGMA key = 'x'",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA rekey = 'ann__x'",
        "COMMIT",
    ]
    for statement in refused:
        with pytest.raises(ExtensionFailed, match="'ann'"):
            await ann.write(lambda c, s=statement: c.exec_driver_sql(s))  # type: ignore[misc]
    assert (
        await OwnStore(database, "bob").read(lambda c: c.execute(text("SELECT * FROM bob__words")).all())
        == []
    )


async def test_what_another_has_prepared_is_judged_anew(database: Database) -> None:
    query = "SELECT word FROM ann__words"
    for _ in range(3):
        await OwnStore(database, "ann").read(lambda c: c.exec_driver_sql(query).all())
        with pytest.raises(ExtensionFailed):
            await OwnStore(database, "bob").read(lambda c: c.exec_driver_sql(query).all())


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(ExtensionFailed, match="may only read"):
        await OwnStore(database, "ann").read(add("x"))


async def test_after_a_refusal_everything_works(database: Database) -> None:
    with pytest.raises(ExtensionFailed):
        await OwnStore(database, "ann").write(add("x", "bob__words"))
    await OwnStore(database, "ann").write(add("one"))
    assert await database.read(words) == ["one"]


# errors


async def test_errors_hold_no_values(database: Database) -> None:
    await database.write(add(MARK))
    with pytest.raises(IntegrityError) as refused:
        await database.write(add(MARK))
    assert MARK not in str(refused.value)
    assert MARK not in repr(refused.value)


async def test_a_full_disk_is_said_and_loses_nothing(database: Database) -> None:
    await database.write(add("kept"))
    with database.transaction(KERNEL) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def fill(connection: Connection) -> None:
        for number in range(10_000):
            add(f"{number} {'x' * 500}")(connection)

    with pytest.raises(StoreFull) as refused:
        await database.write(fill)
    assert "Free some space" in refused.value.fix
    assert await database.read(words) == ["kept"]


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs to mount")
def test_a_full_or_read_only_disk_of_its_own(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], timeout=10)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        database = Database(disk / "allod.db", KEY)
        with database.transaction(KERNEL) as connection:
            connection.execute(text("CREATE TABLE ann__words (word TEXT)"))
        kept = 0
        with pytest.raises(StoreFull):
            for number in range(100):
                with database.transaction(KERNEL) as connection:
                    add(f"{number} {'x' * 50_000}")(connection)
                kept += 1
        database.dispose()
        assert kept > 0
        again = Database(disk / "allod.db", KEY)
        with again.transaction(KERNEL) as connection:
            assert len(words(connection)) == kept
        assert again.problems() == []
        again.dispose()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=10)
        with pytest.raises(StoreReadOnly):
            Database(disk / "allod.db", KEY)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=10)


async def test_a_file_that_another_program_holds_is_busy(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_BUSY_S", 0.1)
    await database.close()
    mine, other = Database(file, KEY), Database(file, KEY)
    with other.transaction(KERNEL) as connection:
        add("held")(connection)
        with pytest.raises(StoreBusy):
            await mine.write(add("mine"))
    await mine.write(add("mine"))
    mine.dispose()
    other.dispose()


# copies, keys, residues


async def test_a_copy_is_whole_while_others_write(database: Database, tmp_path: Path) -> None:
    writing = asyncio.gather(*(database.write(add(str(number))) for number in range(200)))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(database.copy_to, tmp_path / "copy.db")
    await writing
    copy = Database(tmp_path / "copy.db", KEY)
    found = await copy.read(words)
    assert found == [str(number) for number in range(len(found))]
    assert copy.problems() == []
    copy.dispose()
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


async def test_a_new_key_while_others_read_and_write(database: Database, file: Path) -> None:
    await asyncio.gather(*(database.write(add(f"{number} {'x' * 200}")) for number in range(300)))
    steps: list[float] = []
    stop = asyncio.Event()

    async def read_on() -> int:
        count = 0
        while not stop.is_set():
            assert len(await database.read(words)) >= 300
            count += 1
        return count

    async def write_on() -> int:
        count = 0
        while not stop.is_set():
            await database.write(add(f"more {count}"))
            count += 1
        return count

    reading, writing = asyncio.create_task(read_on()), asyncio.create_task(write_on())
    await asyncio.sleep(0.02)
    await asyncio.to_thread(database.rekey, OTHER, steps.append)
    await asyncio.sleep(0.02)
    stop.set()
    assert await reading > 0
    written = await writing
    await database.close()
    assert steps[-1] == 1.0
    with pytest.raises(StoreDamaged):
        Database(file, KEY)
    again = Database(file, OTHER)
    assert len(await again.read(words)) == 300 + written
    assert again.problems() == []
    again.dispose()


def test_a_new_key_needs_room(database: Database, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    usage = shutil.disk_usage(file.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreFull, match="17 MiB"):
        database.check_room_for_rekey()


async def test_scrubbing_leaves_no_page_from_before(database: Database, file: Path) -> None:
    await database.write(add(MARK))
    await database.write(lambda c: c.execute(text("DELETE FROM ann__words")))
    wal = file.with_name("allod.db-wal")
    assert wal.stat().st_size > 0
    await database.scrub()
    assert wal.stat().st_size == 0


def test_the_driver_is_the_encrypting_one(database: Database) -> None:
    with database.transaction(KERNEL) as connection:
        assert connection.exec_driver_sql("PRAGMA cipher_version").scalar_one().startswith("4.")
        for setting, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("secure_delete", 1),
            ("temp_store", 2),
        ):
            assert connection.exec_driver_sql(f"PRAGMA {setting}").scalar_one() == value
    assert sqlalchemy.__version__ >= "2.1"
