"""The store against the same SQLite without a key; what events, jobs and stages cost. In this process, no server."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from pydantic import BaseModel
from sqlcipher3 import dbapi2

from allod.kernel.authorizer import KERNEL
from allod.kernel.event_stream import EventStream
from allod.kernel.stages import Stages
from allod.kernel.storage import Database
from allod.sdk.chat import Caller, ChatRequest, Run
from allod.sdk.events import Event, ModelStateChanged
from allod.sdk.jobs import Job, JobKind
from allod.testing.house import KEY, standing
from bench.figures import Figure

_ROWS = 100_000
_WORDS = [f"word{number}" for number in range(5000)]
_EVENT: Event = ModelStateChanged("model", "ready")


def encryption(rows: int, folder: Path) -> Iterator[Figure]:
    """Insert, read and search, encrypted against plain: the same library, settings and rows, in turn."""
    rng = random.Random(7)
    texts = [" ".join(rng.choices(_WORDS, k=80)) for _ in range(min(rows, 5000))]
    plain, sealed = (_opened(folder / name, key) for name, key in (("plain.db", b""), ("sealed.db", KEY)))
    for what, work, repeats in (
        ("insert", lambda db: _insert(db, texts, rows), 1),
        ("single-row transactions", lambda db: _commits(db, texts[0]), 3),
        ("read a page of 50", lambda db: _pages(db, rows), 9),
        ("read 2,000 in a row", lambda db: _range(db, rows), 9),
        ("full text, newest 20", lambda db: _search(db), 9),
    ):
        ratios, seconds = [], []
        for number in range(repeats):
            order = (plain, sealed) if number % 2 else (sealed, plain)
            took = {id(db): _timed(work, db) for db in order}
            ratios.append(took[id(sealed)] / took[id(plain)])
            seconds.append(took[id(sealed)])
        yield Figure(
            f"{what}, {rows:,} rows: encrypted / plain",
            median(ratios),
            "",
            note=f"{median(seconds) * 1000:.2f} ms encrypted",
        )
    plain.close()
    sealed.close()


def _opened(file: Path, key: bytes) -> Any:
    made = dbapi2.connect(str(file), isolation_level=None)
    if key:
        made.execute(f"PRAGMA key=\"x'{key.hex()}'\"")
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        "temp_store=MEMORY",
        "cache_size=-65536",
    ):
        made.execute(f"PRAGMA {pragma}")
    made.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, at REAL, text TEXT)")
    made.execute("CREATE VIRTUAL TABLE found USING fts5(text, content='', contentless_delete=1)")
    return made


def _timed(work: Callable[[Any], object], database: Any) -> float:
    began = time.perf_counter()
    work(database)
    return time.perf_counter() - began


def _insert(database: Any, texts: Sequence[str], rows: int) -> None:
    for start in range(0, rows, 1000):
        batch = [
            (number, float(number), texts[number % len(texts)])
            for number in range(start, min(rows, start + 1000))
        ]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO notes VALUES (?, ?, ?)", batch)
        database.executemany(
            "INSERT INTO found (rowid, text) VALUES (?, ?)", [(row[0], row[2]) for row in batch]
        )
        database.execute("COMMIT")


def _commits(database: Any, text: str) -> None:
    for _ in range(200):
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO notes (at, text) VALUES (0, ?)", (text,))
        database.execute("COMMIT")


def _pages(database: Any, rows: int) -> None:
    for number in range(100):
        start = number * 7919 % rows
        database.execute("SELECT * FROM notes WHERE id > ? ORDER BY id LIMIT 50", (start,)).fetchall()


def _range(database: Any, rows: int) -> None:
    database.execute("SELECT * FROM notes WHERE id > ? ORDER BY id LIMIT 2000", (rows // 3,)).fetchall()


def _search(database: Any) -> None:
    for word in _WORDS[:50]:
        database.execute(
            "SELECT rowid FROM found WHERE found MATCH ? ORDER BY rowid DESC LIMIT 20", (word,)
        ).fetchall()


def rekeying(mib: int, folder: Path) -> Iterator[Figure]:
    """A new key for a whole file."""
    database = Database(folder / "rekey.db", KEY)
    with database.transaction(KERNEL) as connection:
        connection.exec_driver_sql("CREATE TABLE kernel__bulk (data BLOB)")
        for _ in range(mib):
            connection.exec_driver_sql("INSERT INTO kernel__bulk VALUES (?)", (os.urandom(1 << 20),))
    size = database.file.stat().st_size + (folder / "rekey.db-wal").stat().st_size
    began = time.perf_counter()
    database.rekey(bytes(32), lambda _: None)
    took = time.perf_counter() - began
    size = database.file.stat().st_size
    database.dispose()
    yield Figure(
        "a new root key",
        size / 1e6 / took,
        "MB/s",
        is_better="higher",
        note=f"{size / 1e6:.0f} MB in {took:.2f} s",
    )


class _Nothing(BaseModel):
    pass


class _Empty(JobKind[_Nothing]):
    name, title, parameters = "do_nothing", "Nothing", _Nothing

    async def run(self, job: Job[_Nothing]) -> None:
        return None


def machinery(samples: int, folder: Path) -> Iterator[Figure]:
    """Events, the outbox, jobs, and an empty list of stages."""
    return iter(uvloop.run(_machinery(samples, folder)))


async def _machinery(samples: int, folder: Path) -> list[Figure]:
    async with _stood(folder) as house:
        events = house.events.of("bench")
        run = Run(ChatRequest(model="m", messages=[]), Caller(), "/bench")
        stages = Stages(events)
        alone = await _each_us(lambda: stages.before(run), samples)
        nothing = await _each_us(_no_work, samples)
        house.events.witnesses.clear()
        bare = _sync_us(lambda: events.publish(_EVENT), samples)
        EventStream(house.events, house.events.outbox)
        told = _sync_us(lambda: events.publish(_EVENT), samples)
        plain = await _writes_ms(house.database, lambda connection: None, samples // 50)
        recorded = await _writes_ms(house.database, lambda c: events.record(c, _EVENT), samples // 50)
        await house.jobs.register("bench", [_Empty()])
        job = await _jobs_ms(house, max(2, samples // 200))
        await house.jobs.withdraw("bench")
    return [
        Figure(
            "an empty list of stages, for a run", alone - nothing, "µs", 1, note="beyond an empty coroutine"
        ),
        Figure("an event published, nobody listening", bare, "µs"),
        Figure("an event published, into the stream of /api/events", told, "µs"),
        Figure(
            "an event recorded in a transaction, more",
            recorded - plain,
            "ms",
            note=f"transaction alone {plain:.2f} ms",
        ),
        Figure("a job from start to done", job, "ms"),
    ]


@asynccontextmanager
async def _stood(folder: Path) -> Any:
    async with standing(folder / "house") as house:
        yield house


async def _no_work() -> None:
    return None


async def _each_us(work: Callable[[], Any], samples: int) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(samples):
            await work()
        times.append((time.perf_counter() - began) / samples * 1e6)
    return min(times)


def _sync_us(work: Callable[[], None], samples: int) -> float:
    began = time.perf_counter()
    for _ in range(samples):
        work()
    return (time.perf_counter() - began) / samples * 1e6


async def _writes_ms(database: Database, work: Callable[[Any], object], samples: int) -> float:
    def writing(connection: Any) -> None:
        connection.exec_driver_sql("INSERT OR REPLACE INTO kernel__facts VALUES ('bench', '1')")
        work(connection)

    times = []
    for _ in range(max(2, samples)):
        began = time.perf_counter()
        await database.write(writing)
        times.append((time.perf_counter() - began) * 1000)
    return median(times)


async def _jobs_ms(house: Any, samples: int) -> float:
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        job = await house.jobs.start("bench", "do_nothing", {})
        async for status in house.jobs.watch(job):
            if status.has_ended:
                break
        times.append((time.perf_counter() - began) * 1000)
    await asyncio.sleep(0)
    return median(times)
