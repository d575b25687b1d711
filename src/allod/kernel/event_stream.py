"""All events as one stream of server-sent events, which a reader picks up where it lost it.

    id: <boot>.<n>.<recorded>    boot: this server's life; n: its frames, from 1; recorded: newest id of the outbox then
    event: <class>
    data: {"source": …, "at": seconds since 1970, and the event's own fields}

What was only published lives in a ring in memory; what was recorded can be read again from the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import orjson

from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.outbox import Outbox, Recorded
from allod.kernel.replay import Lagged, Ring
from allod.sdk.events import Event

_FRAMES = 4096
_BYTES = 2 << 20
_BEAT_S = 15.0
_COMMENT = b":\n\n"
_ID = re.compile(r"([0-9a-f]{8}|0)\.(\d{1,15})\.(\d{1,15})")
_NO_BOOT = "0"  # in the ids of frames that were read from the outbox: they have no place in the ring
_LOST = {
    "detail": "Events that are not kept may have been lost.",
    "fix": "Read again what you show of the server's state.",
}
_log = logging.getLogger("allod.events")


@dataclass(slots=True)
class _Place:
    """Where a reader stands: the last frame it had, and the last recorded event."""

    frame: int
    recorded: int


class EventStream:
    """Every event of a bus, for any number of readers. Made once the bus was started."""

    def __init__(self, bus: EventBus, outbox: Outbox | None) -> None:
        self._bus = bus
        self._outbox = outbox
        self._boot = secrets.token_hex(4)
        self._ring = Ring(_FRAMES, _BYTES)
        bus.witnesses.append(self)

    def saw_published(self, source: str, event: Event) -> None:
        """Add it to the ring."""
        name = type(event).__name__
        try:
            fields = orjson.dumps(event)
        except orjson.JSONEncodeError:
            _log.warning("the event %s of %s holds something that is not JSON: it is not shown", name, source)
            return
        self._append(self._recorded, name, _data(source, time.time(), fields))

    def saw_recorded(self, event: Recorded) -> None:
        """Add it to the ring."""
        self._append(event.id, event.name, _data(event.source, event.at, event.fields.encode()))

    def _append(self, recorded: int, name: str, data: bytes) -> None:
        self._ring.append(_frame(f"{self._boot}.{self._ring.last + 1}.{recorded}", name, data))

    @property
    def _recorded(self) -> int:
        return self._outbox.last if self._outbox is not None else 0

    async def frames(self, last_event_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Events after `last_event_id`, as the header Last-Event-ID gives it; without one, those from now on.

        The first frame says where the reader stands, so that it can come back even if nothing has happened. Where
        events may be missing (another life of the server, a reader too slow), a frame `Gap` says so, and what was
        recorded follows. A comment every 15 s while nothing happens. Ends with `close`.
        """
        place = self._place_of(last_event_id)
        if place is not None:
            yield self._standing(place)
        else:
            place = _Place(-1, self._recorded_of(last_event_id))
        while True:
            try:
                found = self._ring.next(place.frame)
            except Lagged:
                async with aclosing(self._catch_up(place)) as missed:
                    async for frame in missed:
                        yield frame
                continue
            if found is not None:
                place.frame, frame = found
                place.recorded = _recorded_in(frame)
                yield frame
            elif self._ring.is_closed:
                return
            elif not await self._comes_soon(place.frame):
                yield _COMMENT

    def close(self) -> None:
        """End all readers."""
        if self in self._bus.witnesses:
            self._bus.witnesses.remove(self)
        self._ring.close()

    def _place_of(self, last_event_id: str | None) -> _Place | None:
        """Where a reader goes on without a gap; None if it cannot."""
        if not last_event_id:
            return _Place(self._ring.last, self._recorded)
        known = _ID.fullmatch(last_event_id)
        if known is None or known[1] != self._boot or not self._ring.keeps(int(known[2])):
            return None
        return _Place(int(known[2]), int(known[3]))

    def _recorded_of(self, last_event_id: str | None) -> int:
        known = _ID.fullmatch(last_event_id or "")
        return int(known[3]) if known is not None else self._recorded

    async def _catch_up(self, place: _Place) -> AsyncGenerator[bytes, None]:
        """Say that there is a gap, and give what was recorded in it. Afterwards `place` is the present."""
        place.frame, upto = self._ring.last, self._recorded
        yield _frame(None, "Gap", _data(KERNEL, time.time(), orjson.dumps(_LOST)))
        while self._outbox is not None and place.recorded < upto:
            rows = await self._outbox.after(place.recorded, upto=upto)
            for row in rows:
                place.recorded = row.id
                data = _data(row.source, row.at, row.fields.encode())
                yield _frame(f"{_NO_BOOT}.0.{row.id}", row.name, data)
            if not rows:
                break
        place.recorded = upto
        yield self._standing(place)

    def _standing(self, place: _Place) -> bytes:
        """A frame that is no event, and only tells a reader its id (HTML, 9.2.6)."""
        return f"id: {self._boot}.{place.frame}.{place.recorded}\n\n".encode()

    async def _comes_soon(self, frame: int) -> bool:
        try:
            async with asyncio.timeout(_BEAT_S):
                await self._ring.more(frame)
        except TimeoutError:
            return False
        return True


def _data(source: str, at: float, fields: bytes) -> bytes:
    head = b'{"source":"%b","at":%.3f' % (source.encode(), at)
    return head + (b"}" if fields == b"{}" else b"," + fields[1:])


def _frame(id: str | None, name: str, data: bytes) -> bytes:
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


def _recorded_in(frame: bytes) -> int:
    return int(frame[: frame.index(b"\n")].rpartition(b".")[2])
