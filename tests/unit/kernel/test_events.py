"""Events: in order, to those who asked for their class, at nobody's cost but the subscriber's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from allod.kernel.events import InProcessEvents
from allod.sdk.events import Event, ModelLoadProgressed, ModelStateChanged


@pytest.fixture
async def events() -> AsyncIterator[InProcessEvents]:
    events = InProcessEvents()
    yield events
    await events.close()


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


async def test_each_subscriber_hears_the_events_of_its_class_in_order(events: InProcessEvents) -> None:
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
    events: InProcessEvents, caplog: pytest.LogCaptureFixture
) -> None:
    slow, fast = Listener(), Listener()
    slow.gate.clear()
    events.subscribe(ModelLoadProgressed, slow.listen)
    events.subscribe(ModelLoadProgressed, fast.listen)
    with caplog.at_level(logging.WARNING, "allod.events"):
        for number in range(1500):
            events.publish(_progress(number))
            await asyncio.sleep(0)
    assert "too slow" in caplog.text
    await settle()
    assert len(fast.heard) == 1500
    slow.gate.set()
    await settle()
    assert slow.heard == [_progress(number) for number in (0, *range(500, 1500))]


async def test_a_subscriber_that_fails_hears_the_next_event_all_the_same(events: InProcessEvents) -> None:
    listener = Listener()
    events.subscribe(ModelLoadProgressed, listener.listen)
    for progress in (0.4, 0.5, 0.6):
        events.publish(_progress(progress))
    await settle()
    assert listener.heard == [_progress(0.4), _progress(0.5), _progress(0.6)]


async def test_an_ended_subscription_hears_nothing_more(events: InProcessEvents) -> None:
    listener = Listener()
    end = events.subscribe(ModelLoadProgressed, listener.listen)
    events.publish(_progress(0.1))
    await settle()
    end()
    end()
    events.publish(_progress(0.2))
    await settle()
    assert listener.heard == [_progress(0.1)]


async def test_closing_ends_all_subscriptions(events: InProcessEvents) -> None:
    before = asyncio.all_tasks()
    listener = Listener()
    events.subscribe(ModelLoadProgressed, listener.listen)
    await events.close()
    events.publish(_progress(0.1))
    await settle()
    assert listener.heard == []
    assert asyncio.all_tasks() <= before
