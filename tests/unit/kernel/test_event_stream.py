"""The stream of all events: one frame each, and what a reader gets that comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection

from allod.kernel import event_stream
from allod.kernel.event_stream import EventStream
from allod.kernel.events import EventBus
from allod.kernel.outbox import Recorded
from allod.kernel.storage import Database
from allod.sdk.events import Event, JobEnded, ModelLoadProgressed, SettingsChanged
from tests.unit.kernel.notes_store import started_bus, store


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as database:
        yield database


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventBus]:
    async with started_bus(database) as bus:
        yield bus


@dataclass(frozen=True, slots=True)
class Frame:
    id: str
    event: str
    data: dict[str, Any]

    @property
    def says(self) -> tuple[str, Any]:
        """The event, and its first own field."""
        return self.event, next((v for k, v in self.data.items() if k not in ("source", "at")), None)


def parsed(frame: bytes) -> Frame:
    assert frame.endswith(b"\n\n") and b"\n\n" not in frame[:-2]
    fields = dict(line.split(": ", 1) for line in frame.decode().splitlines() if line)
    return Frame(fields.get("id", ""), fields.get("event", ""), orjson.loads(fields.get("data", "{}")))


class Reader:
    """Reads frames one at a time, and knows the last id, as a browser does."""

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        self._frames = frames
        self.last_id = ""

    async def any(self) -> Frame:
        frame = parsed(await asyncio.wait_for(anext(self._frames), 20))
        self.last_id = frame.id or self.last_id
        return frame

    async def next(self) -> tuple[str, Any]:
        """The next frame that is an event."""
        while not (frame := await self.any()).event:
            pass
        return frame.says

    async def take(self, number: int) -> list[Any]:
        return [await self.next() for _ in range(number)]


def progress(number: int) -> ModelLoadProgressed:
    return ModelLoadProgressed(f"m{number}", number)


def said(number: int) -> tuple[str, str]:
    return "ModelLoadProgressed", f"m{number}"


class HandedOn:
    """A witness that waits for recorded events."""

    def __init__(self) -> None:
        self._number = 0
        self._seen = asyncio.Event()

    def saw_published(self, source: str, event: Event) -> None:
        pass

    def saw_recorded(self, event: Recorded) -> None:
        self._number += 1
        self._seen.set()

    async def until(self, number: int) -> None:
        async with asyncio.timeout(20):
            while self._number < number:
                self._seen.clear()
                await self._seen.wait()


async def record(bus: EventBus, database: Database, *events: Event) -> None:
    """Record, and wait until it was handed on."""

    def work(connection: Connection) -> None:
        for event in events:
            bus.of("notes").record(connection, event)

    handed_on = HandedOn()
    bus.witnesses.append(handed_on)
    await database.write(work, "notes")
    await handed_on.until(len(events))
    bus.witnesses.remove(handed_on)


def ended(number: int) -> JobEnded:
    return JobEnded(f"j{number}", "walk", "done")


def end_of(number: int) -> tuple[str, str]:
    return "JobEnded", f"j{number}"


GAP = ("Gap", "Events that are not kept may have been lost.")


async def test_one_frame_for_each_event(bus: EventBus, database: Database) -> None:
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        assert re.fullmatch(r"[0-9a-f]{8}\.0\.0", (await reader.any()).id)
        bus.of("llamacpp").publish(progress(1))
        await record(bus, database, ended(1))
        bus.of("kernel").publish(progress(2))
        first, second, third = [await reader.any() for _ in range(3)]
    told = {"model": "m1", "progress": 1, "purpose": "chat"}
    assert first.data == {"source": "llamacpp", "at": first.data["at"], **told}
    assert second.data == {
        "source": "notes",
        "at": second.data["at"],
        "job": "j1",
        "kind": "walk",
        "state": "done",
    }
    assert abs(first.data["at"] - second.data["at"]) < 20
    boot = first.id.split(".")[0]
    assert [frame.id for frame in (first, second, third)] == [f"{boot}.1.0", f"{boot}.2.1", f"{boot}.3.1"]
    assert third.event == "ModelLoadProgressed"


async def test_without_an_id_only_what_is_new(bus: EventBus, database: Database) -> None:
    stream = EventStream(bus, bus.outbox)
    bus.of("a").publish(progress(1))
    await record(bus, database, ended(1))
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
        bus.of("a").publish(progress(2))
        assert await reader.next() == said(2)


async def test_a_reader_that_comes_back_misses_nothing(bus: EventBus, database: Database) -> None:
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
        bus.of("a").publish(progress(1))
        assert await reader.next() == said(1)
    bus.of("a").publish(progress(2))
    await record(bus, database, ended(1))
    async with aclosing(stream.frames(reader.last_id)) as frames:
        assert await Reader(frames).take(2) == [said(2), end_of(1)]


async def test_also_one_that_had_no_event_yet(bus: EventBus) -> None:
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
    bus.of("a").publish(progress(1))
    async with aclosing(stream.frames(reader.last_id)) as frames:
        assert await Reader(frames).next() == said(1)


async def test_after_a_restart_a_gap_and_what_was_recorded(database: Database) -> None:
    async with started_bus(database) as bus:
        stream = EventStream(bus, bus.outbox)
        async with aclosing(stream.frames()) as frames:
            reader = Reader(frames)
            await reader.any()
            await record(bus, database, ended(1))
            assert await reader.next() == end_of(1)
        bus.of("a").publish(progress(1))
        await record(bus, database, ended(2), SettingsChanged("notes", ()))
        stream.close()
    async with started_bus(database) as bus:
        stream = EventStream(bus, bus.outbox)
        async with aclosing(stream.frames(reader.last_id)) as frames:
            reader = Reader(frames)
            assert await reader.take(3) == [GAP, end_of(2), ("SettingsChanged", "notes")]
            await reader.any()
            bus.of("a").publish(progress(2))
            await record(bus, database, ended(3))
            assert await reader.take(2) == [said(2), end_of(3)]
        async with aclosing(stream.frames(reader.last_id)) as frames:
            bus.of("a").publish(progress(3))
            assert await Reader(frames).next() == said(3)  # no gap any more


async def test_one_that_is_cut_off_while_it_catches_up_goes_on_there(database: Database) -> None:
    async with started_bus(database) as bus:
        await record(bus, database, *map(ended, range(1, 6)))
        stream = EventStream(bus, bus.outbox)
        async with aclosing(stream.frames("0badb007.7.1")) as frames:
            reader = Reader(frames)
            assert await reader.take(3) == [GAP, end_of(2), end_of(3)]
        async with aclosing(stream.frames(reader.last_id)) as frames:
            assert await Reader(frames).take(3) == [GAP, end_of(4), end_of(5)]


async def test_nothing_is_lost_or_said_twice_between_the_table_and_the_present(
    bus: EventBus, database: Database
) -> None:
    stream = EventStream(bus, bus.outbox)
    await record(bus, database, *map(ended, range(300)))
    async with aclosing(stream.frames("0badb007.1.0")) as frames:
        reader = Reader(frames)
        heard = await reader.take(101)
        await record(bus, database, *map(ended, range(300, 350)))
        heard += await reader.take(250)
    assert heard == [GAP, *map(end_of, range(350))]


async def test_a_reader_too_slow_is_told_of_the_gap(
    bus: EventBus, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_FRAMES", 3)
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
        bus.of("a").publish(progress(1))
        assert await reader.next() == said(1)
        await record(bus, database, ended(1))
        for number in range(2, 9):
            bus.of("a").publish(progress(number))
        assert await reader.take(2) == [GAP, end_of(1)]
        await reader.any()
        bus.of("a").publish(progress(9))
        assert await reader.next() == said(9)


async def test_an_id_that_the_ring_no_longer_reaches_gets_a_gap(
    bus: EventBus, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_FRAMES", 3)
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
    await record(bus, database, ended(1))
    for number in range(5):
        bus.of("a").publish(progress(number))
    async with aclosing(stream.frames(reader.last_id)) as frames:
        assert await Reader(frames).take(2) == [GAP, end_of(1)]


@pytest.mark.parametrize(
    "id", ["nonsense", "1.2", "zzzzzzzz.1.1", "0badb007.-1.1", "0badb007.1.1\n", "9" * 5000]
)
async def test_a_malformed_id_is_none_and_a_gap(bus: EventBus, database: Database, id: str) -> None:
    stream = EventStream(bus, bus.outbox)
    await record(bus, database, ended(1))
    async with aclosing(stream.frames(id)) as frames:
        reader = Reader(frames)
        gap = await reader.any()
        assert gap.says == GAP and gap.data["fix"].startswith("Read again")
        await reader.any()
        bus.of("a").publish(progress(1))
        assert await reader.next() == said(1)


async def test_a_number_that_was_never_given_gets_a_gap(bus: EventBus) -> None:
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        boot = (await Reader(frames).any()).id.split(".")[0]
    async with aclosing(stream.frames(f"{boot}.17.99")) as frames:
        assert await Reader(frames).next() == GAP


async def test_a_sign_of_life_while_nothing_happens(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_BEAT_S", 0.01)
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        await anext(frames)
        assert [await anext(frames) for _ in range(3)] == [b":\n\n"] * 3
        bus.of("a").publish(progress(1))
        assert parsed(await anext(frames)).says == said(1)


async def test_closing_ends_all_readers(bus: EventBus) -> None:
    stream = EventStream(bus, bus.outbox)

    async def read() -> list[bytes]:
        async with aclosing(stream.frames()) as frames:
            return [frame async for frame in frames]

    reading = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    bus.of("a").publish(progress(1))
    stream.close()
    bus.of("a").publish(progress(2))
    assert [len(frames) for frames in await asyncio.gather(*reading)] == [2, 2, 2]


async def test_without_a_store_there_are_published_events_only() -> None:
    bus = EventBus()
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames("0badb007.1.5")) as frames:
        reader = Reader(frames)
        assert await reader.next() == GAP
        await reader.any()
        bus.of("a").publish(progress(1))
        assert await reader.next() == said(1)


@dataclass(frozen=True, slots=True)
class Odd(Event):
    what: Any = None


@dataclass(frozen=True, slots=True)
class Bare(Event):
    pass


async def test_an_event_that_is_not_json_is_left_out(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    stream = EventStream(bus, bus.outbox)
    async with aclosing(stream.frames()) as frames:
        reader = Reader(frames)
        await reader.any()
        bus.of("a").publish(Odd(object()))
        bus.of("a").publish(Bare())
        assert await reader.next() == ("Bare", None)
    assert "the event Odd of a holds something that is not JSON" in caplog.text


def test_no_event_of_the_contract_has_a_field_that_the_stream_itself_uses() -> None:
    kinds = Event.__subclasses__()
    assert len(kinds) > 5
    for kind in kinds:
        assert not {"source", "at"} & set(kind.__dataclass_fields__), kind.__name__
