"""Workers that count for models which are not loaded: each knows a vocabulary and a template, and has no weights.

They are no models in memory: the scheduler does not know of them, and nobody waits for one. At most two rest at a time,
each for a minute after its last use. One that was told words of a private run ends with the question itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from allod.extensions.llamacpp.catalog import ModelFile
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.chat import Purpose
from allod.sdk.engine import ModelId

IDLE_S = 60.0
_MOST_RESTING = 2


@dataclass(slots=True, eq=False)
class _Counter:
    """One of them, from the moment that it is started."""

    file: ModelFile
    purpose: Purpose
    start: asyncio.Task[Worker]
    users: int = 0
    end_at: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it may still become ready, or is."""
        if not self.start.done():
            return True
        return (
            not self.start.cancelled() and not self.start.exception() and self.start.result().child.is_alive
        )


class Counters:
    """Lends them out. `start` gives one for a model, ready to be asked."""

    def __init__(self, start: Callable[[ModelFile], Awaitable[Worker]]) -> None:
        self._start = start
        self._counters: dict[tuple[str, Purpose], _Counter] = {}
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lent(self, file: ModelFile, purpose: Purpose) -> AsyncIterator[Worker]:
        """One that knows this model; started where there is none. Raises LoadFailed."""
        counter = self._counter(file, purpose)
        counter.users += 1
        if counter.end_at is not None:
            counter.end_at.cancel()
        try:
            yield await asyncio.shield(counter.start)  # others may wait for it too
        finally:
            counter.users -= 1
            if counter.users == 0:
                await self._rest(counter)

    def _counter(self, file: ModelFile, purpose: Purpose) -> _Counter:
        key = (file.id, purpose)
        counter = self._counters.pop(key, None)
        if counter is not None and not (counter.file == file and counter.is_usable):
            if counter.users == 0:
                self._end(counter)  # else its last user does
            counter = None
        if counter is None:

            async def start() -> Worker:
                return await self._start(file)

            counter = _Counter(file, purpose, asyncio.create_task(start(), name=f"count:{file.id}"))
        self._counters[key] = counter  # the last one used is the last
        return counter

    async def _rest(self, counter: _Counter) -> None:
        is_known = self._counters.get((counter.file.id, counter.purpose)) is counter
        if counter.purpose == "private" or not is_known or not counter.is_usable:
            await asyncio.shield(self._end(counter))
            return
        counter.end_at = asyncio.get_running_loop().call_later(IDLE_S, self._end, counter)
        resting = [each for each in self._counters.values() if each.users == 0]
        for each in resting[:-_MOST_RESTING]:
            self._end(each)

    def _end(self, counter: _Counter) -> asyncio.Task[None]:
        """End it: nobody gets it from here on, and its process goes."""
        key = (counter.file.id, counter.purpose)
        if self._counters.get(key) is counter:
            del self._counters[key]
        if counter.end_at is not None:
            counter.end_at.cancel()
        task = asyncio.create_task(_stop(counter.start), name=f"end of count:{counter.file.id}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def let_go(self, model: ModelId, purpose: Purpose) -> None:
        """End the one of this model, unless it is at work."""
        counter = self._counters.get((model, purpose))
        if counter is not None and counter.users == 0:
            await self._end(counter)

    async def renew(self) -> None:
        """End all, so that the next ones are started as things are now; those at work end when they are done."""
        known = list(self._counters.values())
        self._counters.clear()
        await asyncio.gather(*(self._end(each) for each in known if each.users == 0))

    async def close(self) -> None:
        """End all, whoever asks them."""
        for each in list(self._counters.values()):
            self._end(each)
        await asyncio.gather(*self._endings)


async def _stop(start: asyncio.Task[Worker]) -> None:
    await asyncio.wait([start])
    if not start.cancelled() and start.exception() is None:
        await start.result().child.stop(0)
