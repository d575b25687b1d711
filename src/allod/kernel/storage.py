"""The one database: an SQLCipher file, written by one thread and read by a few. The only module that opens databases.

Everybody's tables lie in it side by side, so that there is one key, one backup and one transaction; SQLite's authorizer
keeps each extension to the tables that begin with its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import QueuePool
from sqlcipher3 import dbapi2

from allod.kernel import disk
from allod.kernel.authorizer import KERNEL, Rights
from allod.kernel.gate import Gate
from allod.sdk.errors import (
    AllodError,
    ExtensionFailed,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
)

T = TypeVar("T")
_READERS = 3
_CACHE_KIB = 65536
_BUSY_S = 30
_LONG_S = 2
_log = logging.getLogger("allod.storage")

_SPARE_BYTES = 16 << 20


class Database:
    """The open file. `read` and `write` run a plain function in a thread, with a connection in a transaction."""

    def __init__(self, file: Path, key: bytes) -> None:
        """Open `file`, made if it is missing. Raises StoreDamaged where the key does not open it."""
        self.file = file
        self.after_write: list[Callable[[], None]] = []
        """Called in the thread that wrote, after each commit and before the next write. They are quick."""
        self._key = key
        with _told(KERNEL):
            os.close(
                os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            )  # SQLite's own files beside it get the same mode
        self._lock = threading.RLock()  # held by the one write at a time
        self._gate = Gate()
        self._writer = _engine(file, key)
        self._reader = _engine(file, key, readers=_READERS)
        self._write_threads = ThreadPoolExecutor(1, "store-writer")
        self._read_threads = ThreadPoolExecutor(_READERS, "store-reader")
        self._check()

    def _check(self) -> None:
        try:
            with self.transaction(KERNEL) as connection:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema")
        except StoreDamaged:
            self.dispose()
            raise

    async def read(self, work: Callable[[Connection], T], owner: str = KERNEL) -> T:
        """What `work` read, from one moment, as `owner`."""

        def reading() -> T:
            with self._gate.shared(), _told(owner, reads=True):
                with self._reader.connect() as connection, connection.begin(), acting_as(connection, owner):
                    return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._read_threads, reading)

    async def write(self, work: Callable[[Connection], T], owner: str = KERNEL) -> T:
        """Run `work` in a transaction, as `owner`, and return once it is safely on the disk."""

        def writing() -> T:
            with self.transaction(owner) as connection:
                return work(connection)

        # A caller that is cancelled learns nothing of how it ended; the transaction itself is never torn.
        return await asyncio.get_running_loop().run_in_executor(self._write_threads, writing)

    @contextlib.contextmanager
    def transaction(self, owner: str) -> Iterator[Connection]:
        """The same for code that is in a thread already, or that runs before there is a loop."""
        with self._lock:
            began = time.monotonic()
            with _told(owner), self._writer.connect() as connection, connection.begin():
                with acting_as(connection, owner):
                    yield connection
            if (took_s := time.monotonic() - began) > _LONG_S:
                _log.warning("a transaction of %s kept all other writes waiting for %.1f s", owner, took_s)
            self._tell_written()

    def _tell_written(self) -> None:
        for tell in tuple(self.after_write):
            try:
                tell()
            except Exception:  # what was written is safe, so its writer must not hear otherwise
                _log.exception("a listener of the store failed")

    @contextlib.contextmanager
    def rebuilding(self, owner: str) -> Iterator[Connection]:
        """A transaction in which tables may be dropped and made anew without taking the rows that refer to them along.

        At its end no row may refer to nothing. Raises StoreDamaged, and nothing was, if one does.
        """
        with self._lock, _told(owner), self._writer.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA foreign_keys=OFF")  # has no effect once a transaction has begun
            try:
                with connection.begin():
                    with acting_as(connection, owner):
                        yield connection
                    lost = raw.execute("PRAGMA foreign_key_check").fetchone()
                    if lost is not None:
                        raise StoreDamaged(f"A row of {lost[0]} would refer to nothing.", fix="Report it.")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")
        self._tell_written()

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Inside, no other thread writes."""
        with self._lock:
            yield

    def copy_to(self, file: Path) -> None:
        """A consistent copy under the same key, while others read and write. `file` must not exist."""
        with self._gate.shared(), _told(KERNEL), contextlib.closing(self._own_connection()) as connection:
            connection.execute("VACUUM INTO ?", (str(file),))
        file.chmod(0o600)

    def check_room_for_rekey(self) -> None:
        """Raises StoreFull where the disk has not the room for `rekey`, which writes all pages beside the old ones."""
        wanted = 2 * self.file.stat().st_size + _SPARE_BYTES
        if shutil.disk_usage(self.file.parent).free < wanted:
            raise StoreFull(
                f"Encrypting anew needs {-(-wanted >> 20)} MiB of free space.",
                fix="Free some space, and try again.",
            )

    def rekey(self, key: bytes, progress: Callable[[float], None]) -> None:
        """Encrypt the whole file anew. Reads and writes wait meanwhile."""
        with self._lock, self._gate.alone(), _told(KERNEL), self._told_by_size(progress):
            self._reader.dispose()
            with self._writer.connect() as connection:
                raw: Any = connection.connection.driver_connection
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                raw.execute(f"PRAGMA rekey=\"x'{key.hex()}'\"")
            self._key = key  # from here on the file is under the new key, whatever comes
            self._writer.dispose()
            self._writer = _engine(self.file, key)
            self._reader = _engine(self.file, key, readers=_READERS)
        self._fold()
        progress(1.0)

    @contextlib.contextmanager
    def _told_by_size(self, progress: Callable[[float], None]) -> Iterator[None]:
        """Inside, tell how far a rekey is: its new pages pile up in the write-ahead log."""
        size = self.file.stat().st_size
        wal = self.file.with_name(f"{self.file.name}-wal")
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                with contextlib.suppress(FileNotFoundError):
                    progress(min(0.99, wal.stat().st_size / max(1, size)))

        watcher = threading.Thread(target=watch, name="rekey-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def problems(self) -> list[str]:
        """What SQLCipher and SQLite find wrong with the file; empty if it is sound. Reads all of it."""
        with self._gate.shared(), _told(KERNEL), contextlib.closing(self._own_connection()) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA cipher_integrity_check")]
            return found + [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def _own_connection(self) -> Any:
        return _connect(self.file, self._key)

    async def scrub(self) -> None:
        """Fold the write-ahead log, where pages from before a deletion still lie (`secure_delete` empties the rest)."""
        await asyncio.get_running_loop().run_in_executor(self._write_threads, self._fold)

    async def close(self) -> None:
        """Let the last transactions end and fold the write-ahead log into the file."""
        await asyncio.to_thread(self._write_threads.shutdown)
        await asyncio.to_thread(self._read_threads.shutdown)
        await asyncio.to_thread(self._fold)
        self.dispose()

    def _fold(self) -> None:
        try:
            with self._lock, self._gate.alone(), _told(KERNEL), self._writer.connect() as connection:
                raw: Any = connection.connection.driver_connection
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except AllodError as error:  # nothing is lost: the next start reads the log
            _log.warning("the store's log was not folded in: %s", error.detail)

    def dispose(self) -> None:
        """Close all connections."""
        self._write_threads.shutdown(wait=False)
        self._read_threads.shutdown(wait=False)
        self._writer.dispose()
        self._reader.dispose()


class OwnStore:
    """The store as one extension sees it."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` read."""
        return await self._database.read(work, self._owner)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction of its own."""
        return await self._database.write(work, self._owner)

    async def scrub(self) -> None:
        """Let what was deleted be gone from the disk too."""
        await self._database.scrub()


@contextlib.contextmanager
def acting_as(connection: Connection, owner: str) -> Iterator[None]:
    """Inside, statements on `connection` have the rights of `owner`; outside the kernel's, who alone may commit."""
    rights: Rights = connection.info.setdefault("rights", Rights())
    before = rights.owner
    _judge_as(connection, rights, owner)
    try:
        yield
    finally:
        _judge_as(connection, rights, before)


def _judge_as(connection: Connection, rights: Rights, owner: str) -> None:
    rights.owner = owner
    if owner not in (KERNEL, rights.prepared_for):
        raw: Any = connection.connection.driver_connection
        raw.set_authorizer(rights.judge)  # said again, so that statements prepared for others are judged anew
    rights.prepared_for = owner


def _connect(file: Path, key: bytes, *, writes: bool = True) -> Any:
    # check_same_thread: the pool hands a connection to one thread at a time
    made = dbapi2.connect(str(file), check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        made.execute("PRAGMA cipher_log_level=NONE")
        made.execute(f"PRAGMA key=\"x'{key.hex()}'\"")  # the raw key: no stretching, so opening takes no time
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut too
        made.execute("PRAGMA secure_delete=ON")
        made.execute("PRAGMA temp_store=MEMORY")
        made.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        made.execute("PRAGMA foreign_keys=ON")
        if not writes:
            made.execute("PRAGMA query_only=ON")
    except BaseException:
        made.close()
        raise
    return made


def _engine(file: Path, key: bytes, *, readers: int = 0) -> Engine:
    """Connections for `readers` threads that read, or for the one that writes."""
    engine = sqlalchemy.create_engine(
        "sqlite+pysqlite://",
        module=dbapi2,
        creator=lambda: _connect(file, key, writes=not readers),
        poolclass=QueuePool,
        pool_size=readers or 1,
        max_overflow=0,
        hide_parameters=True,
    )
    # SQLite's driver would begin transactions late, and none for DDL; so they are begun here, by hand.
    begin = "BEGIN" if readers else "BEGIN IMMEDIATE"
    sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@contextlib.contextmanager
def _told(owner: str, *, reads: bool = False) -> Iterator[None]:
    """Turn the database's own errors that a person can do something about into ours; they hold no parameters."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        raised = _as_allod_error(error.orig, owner, reads)
        if raised is None:
            raise
        raise raised from error
    except dbapi2.Error as error:  # from a connection that could not be opened, or a raw statement
        raised = _as_allod_error(error, owner, reads)
        if raised is None:
            raise
        raise raised from error
    except OSError as error:
        if error.errno in disk.REFUSALS:
            raise disk.of_disk(error) from error
        raise


def _as_allod_error(error: Any, owner: str, reads: bool) -> AllodError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return disk.full()
    if code == sqlite3.SQLITE_READONLY and reads:
        return ExtensionFailed(
            f"{owner!r} wanted to write where it may only read.", fix="Report it to its author."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return disk.read_only()
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreDamaged(
            "allod.db cannot be read with this data folder's key: it is damaged, or of another data folder.",
            fix="Nothing was changed. Restore a backup: allod restore FILE",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(
            "The store is in use by something that does not let go.", fix="Try again in a moment."
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreReadOnly("The disk reported an error.", fix="Look at the disk, then start Allod again.")
    if code == sqlite3.SQLITE_AUTH:
        return ExtensionFailed(
            f"The extension {owner!r} wanted what is not its own in the store, a table or the transaction itself.",
            fix="Its tables begin with its name and two underscores. Report it to its author.",
        )
    return None
