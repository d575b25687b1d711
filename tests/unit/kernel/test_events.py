"""Events: in order, to those who asked for their class, at nobody's cost but the subscriber's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from allod.kernel import events as rooms
from allod.kernel.events import EventBus, OwnEvents
from allod.sdk.events import Event, JobEnded, ModelLoadProgressed, ModelStateChanged


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    bus = EventBus()
    await bus.start()
    yield bus
    await bus.close()


@pytest.fixture
def events(bus: EventBus) -> OwnEvents:
    return bus.of("notes")


class Listener:
    """Notes what it is told, and waits at each event while `gate` is closed."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def listen(self, event: Event) -> None:
        self.heard.append(event)
        await self.gate.wait()
        if event == _progress(0.5):
            raise RuntimeError("a bug")


def _progress(progress: float) -> ModelLoadProgressed:
    return ModelLoadProgressed("m", progress)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_subscriber_hears_the_events_of_its_class_in_order(events: OwnEvents) -> None:
    progress, states, everything = Listener(), Listener(), Listener()
    events.subscribe(ModelLoadProgressed, progress.listen)
    events.subscribe(ModelStateChanged, states.listen)
    events.subscribe(Event, everything.listen)
    said = [_progress(0.1), _progress(0.2), ModelStateChanged("m", "ready")]
    for event in said:
        events.publish(event)
    await settle()
    assert progress.heard == said[:2]
    assert states.heard == said[2:]
    assert everything.heard == []


async def test_a_slow_subscriber_loses_its_oldest_events_and_holds_up_nobody(
    events: OwnEvents, caplog: pytest.LogCaptureFixture
) -> None:
    slow, fast = Listener(), Listener()
    slow.gate.clear()
    events.subscribe(ModelLoadProgressed, slow.listen)
    events.subscribe(ModelLoadProgressed, fast.listen)
    with caplog.at_level(logging.WARNING, "allod.events"):
        for number in range(1500):
            events.publish(_progress(number))
            await asyncio.sleep(0)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("notes:ModelLoadProgressed is too slow for ModelLoadProgressed")
    await settle()
    assert len(fast.heard) == 1500
    slow.gate.set()
    await settle()
    assert slow.heard == [_progress(number) for number in (0, *range(500, 1500))]


async def test_a_subscriber_that_fails_hears_the_next_event_all_the_same(events: OwnEvents) -> None:
    listener = Listener()
    events.subscribe(ModelLoadProgressed, listener.listen)
    for progress in (0.4, 0.5, 0.6):
        events.publish(_progress(progress))
    await settle()
    assert listener.heard == [_progress(0.4), _progress(0.5), _progress(0.6)]


async def test_an_ended_subscription_hears_nothing_more(events: OwnEvents) -> None:
    listener = Listener()
    end = events.subscribe(ModelLoadProgressed, listener.listen)
    events.publish(_progress(0.1))
    await settle()
    end()
    end()
    events.publish(_progress(0.2))
    await settle()
    assert listener.heard == [_progress(0.1)]


async def test_closing_ends_all_subscriptions(bus: EventBus, events: OwnEvents) -> None:
    before = asyncio.all_tasks()
    listener = Listener()
    events.subscribe(ModelLoadProgressed, listener.listen)
    await bus.close()
    events.publish(_progress(0.1))
    await settle()
    assert listener.heard == []
    assert asyncio.all_tasks() <= before


async def test_a_handler_that_never_returns_fills_only_its_own_queue(events: OwnEvents) -> None:
    stuck, other = Listener(), Listener()
    stuck.gate.clear()
    events.subscribe(ModelLoadProgressed, stuck.listen)
    events.subscribe(ModelLoadProgressed, other.listen)
    said = [_progress(0.1), _progress(0.2), _progress(0.3)]
    for event in said:
        events.publish(event)
    await settle()
    assert (stuck.heard, other.heard) == (said[:1], said)


async def test_the_end_of_a_source_leaves_others_listening(bus: EventBus) -> None:
    before = asyncio.all_tasks()
    mine, too, theirs = Listener(), Listener(), Listener()
    mine.gate.clear()
    bus.of("notes").subscribe(ModelLoadProgressed, mine.listen)
    bus.of("notes").subscribe(ModelStateChanged, too.listen, name="notes:ModelStateChanged")
    bus.of("other").subscribe(ModelLoadProgressed, theirs.listen)
    bus.of("kernel").publish(_progress(0.1))
    await settle()
    await bus.end("notes")
    assert {task.get_name() for task in asyncio.all_tasks() - before} == {"events:other:ModelLoadProgressed"}
    bus.of("kernel").publish(_progress(0.2))
    bus.of("kernel").publish(ModelStateChanged("m", "ready"))
    await settle()
    assert (mine.heard, too.heard) == ([_progress(0.1)], [])
    assert theirs.heard == [_progress(0.1), _progress(0.2)]


async def test_an_ended_one_whose_handler_is_still_busy_is_waited_for(bus: EventBus) -> None:
    has_tidied = False

    async def tidy(event: Event) -> None:
        nonlocal has_tidied
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            has_tidied = True

    end = bus.of("notes").subscribe(ModelLoadProgressed, tidy)
    bus.of("notes").publish(_progress(0.1))
    await settle()
    end()
    await bus.end("notes")
    assert has_tidied


async def test_one_that_does_not_let_go_is_named_and_left(
    bus: EventBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_LETS_GO_S", 0.05)
    release = asyncio.Event()

    async def hold(event: Event) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    bus.of("notes").subscribe(ModelLoadProgressed, hold)
    bus.of("notes").publish(_progress(0.1))
    await settle()
    await bus.end("notes")
    assert "notes:ModelLoadProgressed does not let go" in caplog.text
    release.set()
    await bus.close()


async def test_a_witness_sees_everything_with_its_source(bus: EventBus) -> None:
    class Notebook:
        def __init__(self) -> None:
            self.seen: list[tuple[str, Event]] = []

        def saw_published(self, source: str, event: Event) -> None:
            self.seen.append((source, event))

        def saw_recorded(self, event: object) -> None:
            raise AssertionError("nothing was recorded")

    notebook = Notebook()
    bus.witnesses.append(notebook)
    bus.of("a").publish(_progress(0.1))
    bus.of("b").publish(ModelStateChanged("m", "ready"))
    assert notebook.seen == [("a", _progress(0.1)), ("b", ModelStateChanged("m", "ready"))]


async def test_nothing_is_recorded_without_a_store(events: OwnEvents) -> None:
    with pytest.raises(RuntimeError):
        events.record(None, JobEnded("1", "k", "done"))  # type: ignore[arg-type]
