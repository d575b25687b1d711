"""Events inside the server process, handed to those who asked for their class.

A slow subscriber loses its oldest published events, never the publisher's time. Recorded ones come out of the outbox,
which loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from allod.kernel.log import said_of
from allod.kernel.outbox import BATCH, Outbox, Recorded
from allod.kernel.storage import Database
from allod.sdk.events import Event

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from sqlalchemy import Connection

E = TypeVar("E", bound=Event)
_QUEUE_LENGTH = 1000
_LETS_GO_S = 10.0
_log = logging.getLogger("allod.events")


class Witness(Protocol):
    """Sees every event of a bus, whatever its class, in the moment in which it is handed on. Must not raise."""

    def saw_published(self, source: str, event: Event) -> None:
        """An event that is told now and kept nowhere."""
        ...

    def saw_recorded(self, event: Recorded) -> None:
        """An event that is in the outbox."""
        ...


class EventBus:
    """All events of one server. Without a database nothing can be recorded. Used on the event loop only."""

    def __init__(self, database: Database | None = None) -> None:
        self.outbox = Outbox(database) if database is not None else None
        self.witnesses: list[Witness] = []
        self._subscribers: dict[type[Event], list[_Subscriber[Any]]] = {}
        self._serving: set[_Subscriber[Any]] = set()  # those whose task has not ended

    async def start(self) -> None:
        """Begin to hand on what is recorded. Before any extension starts."""
        if self.outbox is not None:
            await self.outbox.start(self._hand_on)

    def of(self, source: str) -> OwnEvents:
        """The bus as `source` sees it: an extension, or the kernel."""
        return OwnEvents(self, source)

    def publish(self, source: str, event: Event) -> None:
        """Queue `event` for the subscribers of exactly its class."""
        for witness in self.witnesses:
            witness.saw_published(source, event)
        for subscriber in self._subscribers.get(type(event), ()):
            subscriber.offer(event)

    def subscribe(
        self, source: str, kind: type[E], handler: Callable[[E], Awaitable[None]], name: str = ""
    ) -> Callable[[], None]:
        """Call `handler` for each event of `kind`. Returns what ends it.

        With a `name`, `<extension>:<class>`, it hears every recorded event at least once: what it has heard is kept
        under this name, and goes on from there after a restart.
        """
        outbox = self.outbox if name else None
        name = self._free(name) if name else f"{source}:{kind.__name__}"
        subscriber = _Subscriber(source, kind, handler, name, outbox)
        self._subscribers.setdefault(kind, []).append(subscriber)
        self._serving.add(subscriber)
        subscriber.task.add_done_callback(lambda _: self._serving.discard(subscriber))

        def end() -> None:
            if subscriber in self._subscribers.get(kind, ()):
                self._subscribers[kind].remove(subscriber)
            subscriber.end()

        return end

    def _free(self, name: str) -> str:
        """This name, or with a number behind it for a second handler of the same class."""
        taken = {subscriber.name for each in self._subscribers.values() for subscriber in each}
        names = [name, *(f"{name}#{number}" for number in range(2, len(taken) + 2))]
        return next(each for each in names if each not in taken)

    def _hand_on(self, event: Recorded) -> None:
        for witness in self.witnesses:
            witness.saw_recorded(event)
        for kind, subscribers in self._subscribers.items():
            if kind.__name__ == event.name:
                for subscriber in subscribers:
                    subscriber.offer_recorded(event)

    async def end(self, source: str) -> None:
        """End all subscriptions of `source`, and wait until their handlers have let go."""
        for kind, subscribers in self._subscribers.items():
            self._subscribers[kind] = [each for each in subscribers if each.source != source]
        await _let_go([each for each in self._serving if each.source == source])
        if self.outbox is not None:
            await self.outbox.save()

    async def prune(self) -> None:
        """Drop recorded events that are old."""
        if self.outbox is not None:
            await self.outbox.prune()

    async def close(self) -> None:
        """End all subscriptions. Nothing is handed on any more."""
        self._subscribers.clear()
        self.witnesses.clear()
        await _let_go(list(self._serving))
        if self.outbox is not None:
            await self.outbox.close()


class OwnEvents:
    """Implements `sdk.events.Events` for one source."""

    def __init__(self, bus: EventBus, source: str) -> None:
        self._bus = bus
        self._source = source

    def publish(self, event: Event) -> None:
        """Hand `event` to its subscribers."""
        self._bus.publish(self._source, event)

    def record(self, connection: Connection, event: Event) -> None:
        """Keep `event` in the transaction of `connection`; it is handed on once that is committed."""
        if self._bus.outbox is None:
            raise RuntimeError("this bus has no database to record in")
        self._bus.outbox.record(connection, self._source, event)

    def subscribe(
        self, kind: type[E], handler: Callable[[E], Awaitable[None]], name: str = ""
    ) -> Callable[[], None]:
        """Call `handler` for each event of `kind`; see EventBus.subscribe for `name`."""
        return self._bus.subscribe(self._source, kind, handler, name)


class _Subscriber(Generic[E]):
    """One handler and the task that serves it. With an outbox, it has a cursor there and reads for itself."""

    def __init__(
        self,
        source: str,
        kind: type[E],
        handler: Callable[[E], Awaitable[None]],
        name: str,
        outbox: Outbox | None,
    ) -> None:
        self.source = source
        self.name = name
        self._kind = kind
        self._handler = handler
        self._outbox = outbox
        self._new_begins_after = outbox.last if outbox is not None else 0
        self._cursor: int | None = None
        self._is_behind = outbox is not None
        self._queue: deque[E] = deque()
        self._is_dropping = False
        self._is_ended = False
        self._adapter: TypeAdapter[E] | None = None
        self._woken = asyncio.Event()
        self._woken.set()
        self.task = asyncio.create_task(self._serve(), name=f"events:{name}")

    def offer(self, event: E) -> None:
        if len(self._queue) >= _QUEUE_LENGTH:
            self._queue.popleft()
            if not self._is_dropping:  # said once until it has caught up
                self._is_dropping = True
                _log.warning(
                    "%s is too slow for %s: its oldest events are dropped", self.name, self._kind.__name__
                )
        self._queue.append(event)
        self._woken.set()

    def offer_recorded(self, event: Recorded) -> None:
        if self._outbox is not None:
            self._is_behind = True
            self._woken.set()
        elif (made := self._made_of(event)) is not None:
            self.offer(made)

    def end(self) -> None:
        self._is_ended = True
        self.task.cancel()

    async def _serve(self) -> None:
        while not self._is_ended:
            await self._woken.wait()
            self._woken.clear()
            if self._is_behind:
                await self._read_on()
            for _ in range(len(self._queue)):  # not those that come meanwhile: recorded ones have their turn
                if not self._is_ended:
                    await self._call(self._queue.popleft())
            if self._queue:
                self._woken.set()
            else:
                self._is_dropping = False

    async def _read_on(self) -> None:
        """Hear what was recorded after the cursor, a batch of it."""
        assert self._outbox is not None
        self._is_behind = False
        try:
            if self._cursor is None:
                self._cursor = await self._outbox.cursor(self.name, self._new_begins_after)
            rows = await self._outbox.after(self._cursor, name=self._kind.__name__)
        except Exception as error:  # whatever it is, it goes on with the next event
            self._is_behind = True
            _log.warning("%s hears nothing for now: %s", self.name, said_of(error))
            return
        if len(rows) == BATCH:
            self._is_behind = True
            self._woken.set()
        for row in rows:
            if (event := self._made_of(row)) is not None:
                await self._call(event)
            if self._is_ended:
                return
            self._cursor = row.id
            self._outbox.move(self.name, row.id)

    async def _call(self, event: E) -> None:
        try:
            await self._handler(event)
        except Exception:
            _log.exception("%s failed at %s", self.name, self._kind.__name__)

    def _made_of(self, row: Recorded) -> E | None:
        """The event again, as an object; None where a row of another version does not fit its class any more."""
        from pydantic import TypeAdapter

        try:
            if self._adapter is None:
                self._adapter = TypeAdapter(self._kind)
            return self._adapter.validate_json(row.fields)
        except Exception:
            _log.exception("%s cannot read event %d, a %s of %s", self.name, row.id, row.name, row.source)
            return None


async def _let_go(subscribers: Collection[_Subscriber[Any]]) -> None:
    """End them, and wait for their tasks."""
    for subscriber in subscribers:
        subscriber.end()
    if not subscribers:
        return
    _, stubborn = await asyncio.wait([each.task for each in subscribers], timeout=_LETS_GO_S)
    for task in stubborn:
        _log.warning("%s does not let go", task.get_name().removeprefix("events:"))
