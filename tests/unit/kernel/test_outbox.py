"""The outbox: kept with what it tells of, handed on after the commit, heard at least once by who has a name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text, update

from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.outbox import BATCH
from allod.kernel.schema import cursors, outbox
from allod.kernel.storage import Database
from allod.sdk.errors import ExtensionFailed
from allod.sdk.events import Event, JobEnded, ModelLoadProgressed, SettingsChanged
from tests.unit.kernel.notes_store import count, open_database, recorded, started_bus, store

ADD_LINE = text("INSERT INTO notes__lines (text) VALUES (:text)")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as database:
        yield database


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventBus]:
    async with started_bus(database) as bus:
        yield bus


def ended(number: int) -> JobEnded:
    return JobEnded(str(number), "walk", "done")


class Listener:
    """Notes what it is told. `until` waits for so many; while `gate` is closed it is busy with what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._told = asyncio.Event()

    async def listen(self, event: Event) -> None:
        self.heard.append(event)
        self._told.set()
        await self.gate.wait()

    async def until(self, number: int) -> list[Any]:
        async with asyncio.timeout(20):
            while len(self.heard) < number:
                self._told.clear()
                await self._told.wait()
        return self.heard


async def record(bus: EventBus, database: Database, *events: Event, source: str = "notes") -> None:
    def work(connection: Connection) -> None:
        for event in events:
            connection.execute(ADD_LINE, {"text": "something happened"})
            bus.of(source).record(connection, event)

    await database.write(work, source)


async def cursor_of(database: Database, subscriber: str) -> int | None:
    query = select(cursors.c.event).where(cursors.c.subscriber == subscriber)
    return await database.read(lambda connection: connection.scalar(query))


# the transaction


async def test_an_event_is_kept_and_handed_on_with_what_it_tells_of(
    bus: EventBus, database: Database
) -> None:
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen)
    await record(bus, database, ended(1), ended(2))
    assert await listener.until(2) == [ended(1), ended(2)]
    rows = await recorded(database)
    assert rows[0] == ("notes", "JobEnded", '{"job":"1","kind":"walk","state":"done"}')
    assert len(rows) == 2


async def test_what_is_rolled_back_was_never_said(bus: EventBus, database: Database) -> None:
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen)

    def work(connection: Connection) -> None:
        bus.of("notes").record(connection, ended(1))
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work, "notes")
    await record(bus, database, ended(2))
    assert await listener.until(1) == [ended(2)]
    assert [row[2] for row in await recorded(database)] == ['{"job":"2","kind":"walk","state":"done"}']


async def test_it_is_not_handed_on_before_the_commit(bus: EventBus, database: Database) -> None:
    listener, may_commit, has_recorded = Listener(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    bus.of("other").subscribe(JobEnded, listener.listen)

    def work(connection: Connection) -> None:
        bus.of("notes").record(connection, ended(1))
        loop.call_soon_threadsafe(has_recorded.set)
        asyncio.run_coroutine_threadsafe(may_commit.wait(), loop).result(10)

    writing = asyncio.create_task(database.write(work, "notes"))
    await has_recorded.wait()
    assert await database.read(lambda connection: count(connection, outbox)) == 0
    assert listener.heard == []
    may_commit.set()
    await writing
    assert await listener.until(1) == [ended(1)]


async def test_a_transaction_in_a_thread_of_one_s_own_counts_too(bus: EventBus, database: Database) -> None:
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen)

    def work() -> None:
        with database.transaction("notes") as connection:
            bus.of("notes").record(connection, ended(1))

    await asyncio.to_thread(work)
    assert await listener.until(1) == [ended(1)]


async def test_an_extension_gains_no_rights_by_recording(bus: EventBus, database: Database) -> None:
    def work(connection: Connection) -> None:
        bus.of("notes").record(connection, ended(1))
        connection.execute(text("SELECT name FROM kernel__outbox"))

    with pytest.raises(ExtensionFailed):
        await database.write(work, "notes")
    assert await recorded(database) == []


@dataclass(frozen=True, slots=True)
class Odd(Event):
    what: Any


async def test_a_field_that_is_not_json_is_refused(bus: EventBus, database: Database) -> None:
    with pytest.raises(ExtensionFailed, match="'Odd' of 'notes'"):
        await record(bus, database, Odd(object()))
    assert await recorded(database) == []


async def test_an_event_comes_back_as_it_went(bus: EventBus, database: Database) -> None:
    listener, event = Listener(), SettingsChanged("notes", ("a", "b"))
    bus.of("other").subscribe(SettingsChanged, listener.listen)
    await record(bus, database, event)
    (heard,) = await listener.until(1)
    assert heard == event and isinstance(heard.fields, tuple)


async def test_what_is_only_published_never_reaches_the_table(bus: EventBus, database: Database) -> None:
    listener = Listener()
    bus.of("other").subscribe(ModelLoadProgressed, listener.listen, name="other:ModelLoadProgressed")
    for number in range(5):
        bus.of("notes").publish(ModelLoadProgressed("m", number / 5))
    await listener.until(5)
    assert await recorded(database) == []


async def test_writers_side_by_side_are_heard_in_order(bus: EventBus, database: Database) -> None:
    named, unnamed = Listener(), Listener()
    bus.of("other").subscribe(JobEnded, named.listen, name="other:JobEnded")
    bus.of("other").subscribe(JobEnded, unnamed.listen)
    await asyncio.gather(*(record(bus, database, ended(2 * n), ended(2 * n + 1)) for n in range(50)))
    order = await database.read(
        lambda c: [row.fields for row in c.execute(select(outbox).order_by(outbox.c.id))]
    )
    for listener in (named, unnamed):
        heard = await listener.until(100)
        assert [f'{{"job":"{event.job}","kind":"walk","state":"done"}}' for event in heard] == order


# cursors


async def test_a_new_subscriber_begins_at_the_present(bus: EventBus, database: Database) -> None:
    old, new = Listener(), Listener()
    bus.of("old").subscribe(JobEnded, old.listen)
    await record(bus, database, ended(1))
    await old.until(1)
    bus.of("new").subscribe(JobEnded, new.listen, name="new:JobEnded")
    await record(bus, database, ended(2))
    assert await new.until(1) == [ended(2)]


async def test_who_was_away_hears_first_what_happened_meanwhile(database: Database) -> None:
    async with started_bus(database) as bus:
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, ended(1))
        await listener.until(1)
        await bus.end("other")
        await record(bus, database, ended(2), SettingsChanged("notes", ()), ended(3))
    async with started_bus(database) as bus:
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, ended(4))
        assert await listener.until(3) == [ended(2), ended(3), ended(4)]


async def test_a_crash_may_make_an_event_heard_twice_and_loses_none(tmp_path: Path) -> None:
    crashed = open_database(tmp_path)
    bus = EventBus(crashed)
    await bus.start()
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
    await record(bus, crashed, ended(1))
    await listener.until(1)
    listener.gate.clear()
    await record(bus, crashed, ended(2), ended(3))
    await listener.until(2)
    async with (
        store(tmp_path) as database,
        started_bus(database) as again,
    ):  # while the other has saved no cursor
        listener_again = Listener()
        again.of("other").subscribe(JobEnded, listener_again.listen, name="other:JobEnded")
        heard = await listener_again.until(2)
        assert heard[-2:] == [ended(2), ended(3)]
    await bus.close()
    await crashed.close()


async def test_an_event_whose_handler_was_cut_off_comes_again(database: Database) -> None:
    async with started_bus(database) as bus:
        listener = Listener()
        listener.gate.clear()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, ended(1))
        await listener.until(1)
    async with started_bus(database) as bus:
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        assert await listener.until(1) == [ended(1)]


async def test_cursors_are_kept_at_the_end_and_now_and_then(bus: EventBus, database: Database) -> None:
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
    loop, saves, has_saved = asyncio.get_running_loop(), 0, asyncio.Event()

    def written() -> None:
        nonlocal saves
        saves += 1
        loop.call_soon_threadsafe(has_saved.set)

    for number in range(1, 21):
        await record(bus, database, ended(number))
    await listener.until(20)
    assert await cursor_of(database, "other:JobEnded") == 0
    database.after_write.append(written)
    await asyncio.wait_for(has_saved.wait(), 20)
    assert (saves, await cursor_of(database, "other:JobEnded")) == (1, 20)
    await record(bus, database, ended(21))
    await listener.until(21)
    await bus.end("other")
    assert await cursor_of(database, "other:JobEnded") == 21


async def test_a_failing_handler_is_passed_over(
    bus: EventBus, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()

    async def fail(event: Event) -> None:
        await listener.listen(event)
        raise ValueError("a bug")

    bus.of("other").subscribe(JobEnded, fail, name="other:JobEnded")
    await record(bus, database, ended(1), ended(2))
    assert await listener.until(2) == [ended(1), ended(2)]
    await bus.end("other")
    assert await cursor_of(database, "other:JobEnded") == 2
    assert "other:JobEnded failed at JobEnded" in caplog.text


async def test_two_handlers_of_one_class_have_a_cursor_each(bus: EventBus, database: Database) -> None:
    one, two = Listener(), Listener()
    for listener in (one, two):
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
    await record(bus, database, ended(1))
    await asyncio.gather(one.until(1), two.until(1))
    await bus.end("other")
    names = await database.read(lambda c: sorted(c.scalars(select(cursors.c.subscriber))))
    assert names == ["other:JobEnded", "other:JobEnded#2"]


async def test_no_queue_bounds_what_was_recorded(database: Database) -> None:
    number = 1500
    async with started_bus(database) as bus:
        listener = Listener()
        listener.gate.clear()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, *map(ended, range(number)))
        await listener.until(1)
        listener.gate.set()
        assert await listener.until(number) == [*map(ended, range(number))]


async def test_a_row_that_does_not_fit_its_class_any_more_is_passed_over(
    bus: EventBus, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
    await record(bus, database, ended(1))
    await listener.until(1)
    old = {"source": "notes", "name": "JobEnded", "fields": '{"id": 7}', "at": time.time()}
    await database.write(lambda connection: connection.execute(insert(outbox).values(**old)))
    await record(bus, database, ended(3))
    assert await listener.until(2) == [ended(1), ended(3)]
    assert "other:JobEnded cannot read event 2, a JobEnded of notes" in caplog.text


# what is dropped


async def fill(database: Database, name: str, days_old: float, number: int = 1) -> None:
    at = time.time() - days_old * 86400
    row = {"source": "notes", "name": name, "fields": "{}", "at": at}
    await database.write(lambda connection: connection.execute(insert(outbox), [row] * number))


async def ids(database: Database) -> list[int]:
    return await database.read(lambda c: list(c.scalars(select(outbox.c.id).order_by(outbox.c.id))))


async def test_what_is_older_than_a_week_and_needed_by_nobody_goes(database: Database) -> None:
    await fill(database, "JobEnded", 8, 3)  # 1 to 3
    await fill(database, "SettingsChanged", 8)  # 4
    await fill(database, "JobEnded", 6)  # 5
    cursor = {"subscriber": "other:JobEnded#2", "event": 2}
    await database.write(lambda connection: connection.execute(insert(cursors).values(**cursor)))
    async with started_bus(database):
        assert await ids(database) == [3, 5]
    await database.write(lambda connection: connection.execute(update(cursors).values(event=3)))
    async with started_bus(database):
        assert await ids(database) == [5]


async def test_there_is_a_limit_whoever_needs_them(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(database, "JobEnded", 0, 100_010)
    cursor = {"subscriber": "other:JobEnded", "event": 1}
    await database.write(lambda connection: connection.execute(insert(cursors).values(**cursor)))
    with caplog.at_level(logging.WARNING, "allod.events"):
        async with started_bus(database):
            left = await ids(database)
    assert (len(left), left[0], left[-1]) == (100_000, 11, 100_010)
    assert "10 recorded events were dropped" in caplog.text


async def test_an_id_is_never_given_twice(database: Database) -> None:
    await fill(database, "JobEnded", 8, 5)
    async with started_bus(database) as bus:
        assert await ids(database) == []
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, ended(1))
        await listener.until(1)
        assert await ids(database) == [6]


async def test_a_large_backlog_is_read_in_batches(database: Database) -> None:
    async with started_bus(database) as bus:
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        await record(bus, database, ended(0))
        await listener.until(1)
        await asyncio.sleep(0)  # it has returned
    async with started_bus(database) as bus:
        await record(bus, database, *map(ended, range(1, 2 * BATCH + 1)))
        listener = Listener()
        bus.of("other").subscribe(JobEnded, listener.listen, name="other:JobEnded")
        assert (await listener.until(2 * BATCH))[-1] == ended(2 * BATCH)


async def test_nothing_is_left_behind(database: Database) -> None:
    before = asyncio.all_tasks()
    async with started_bus(database) as bus:
        bus.of("other").subscribe(JobEnded, Listener().listen, name="other:JobEnded")
        assert len(database.after_write) == 1
    assert asyncio.all_tasks() <= before
    assert database.after_write == []


async def test_a_listener_of_the_store_that_fails_does_not_make_a_write_fail(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    database.after_write.append(fail)
    await database.write(lambda connection: connection.execute(ADD_LINE, {"text": "kept"}), KERNEL)
    assert await database.read(lambda c: c.scalar(text("SELECT text FROM notes__lines"))) == "kept"
    assert "a listener of the store failed" in caplog.text
