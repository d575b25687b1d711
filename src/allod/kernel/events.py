"""Events inside the server process. A slow subscriber loses its oldest events, never the publisher's time."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from allod.sdk.events import Event

E = TypeVar("E", bound=Event)
_QUEUE_LENGTH = 1000
_log = logging.getLogger("allod.events")


class InProcessEvents:
    """Hands each event to the subscribers of its class."""

    def __init__(self) -> None:
        self._queues: dict[type[Event], list[asyncio.Queue[Any]]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def publish(self, event: Event) -> None:
        """Queue `event` for its subscribers."""
        for queue in self._queues.get(type(event), ()):
            if queue.full():
                queue.get_nowait()
                _log.warning(
                    "a subscriber of %s is too slow: its oldest event was dropped", type(event).__name__
                )
            queue.put_nowait(event)

    def subscribe(self, kind: type[E], handler: Callable[[E], Awaitable[None]]) -> Callable[[], None]:
        """Call `handler` for each event of exactly this class. Returns what ends it."""
        queue: asyncio.Queue[E] = asyncio.Queue(_QUEUE_LENGTH)
        self._queues[kind].append(queue)
        task = asyncio.create_task(self._serve(queue, handler), name=f"events:{kind.__name__}")
        self._tasks.add(task)

        def end() -> None:
            if queue in self._queues[kind]:
                self._queues[kind].remove(queue)
            task.cancel()
            self._tasks.discard(task)

        return end

    async def _serve(self, queue: asyncio.Queue[E], handler: Callable[[E], Awaitable[None]]) -> None:
        while True:
            event = await queue.get()
            try:
                await handler(event)
            except Exception:
                _log.exception("a subscriber of %s failed", type(event).__name__)

    async def close(self) -> None:
        """End all subscriptions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._queues.clear()
