"""Everything that a run has said, as numbered server-sent events: any number of readers, each from where it likes.

A reader waits on its own, so a slow one holds up nobody. All of it is kept until the log is dropped: an answer is
bounded by its model's context.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson

_SILENT_S = 10


class RunLog:
    """Frames, numbered from 1."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._grown = asyncio.Event()
        self.is_closed = False
        """Whether no more come."""

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, event: str, data: Any) -> None:
        """Say something. Never waits."""
        self._frames.append(frame(event, data, len(self._frames) + 1))
        self._grown.set()

    def close(self) -> None:
        """Nothing more comes: readers get the rest, and end."""
        self.is_closed = True
        self._grown.set()

    async def read(self, after: int = 0) -> AsyncGenerator[bytes, None]:
        """The frames after number `after`, then what comes, until the log is closed; a comment while it is silent, so
        that nobody on the way takes the connection for dead.
        """
        while True:
            while after < len(self._frames):
                after += 1
                yield self._frames[after - 1]
            if self.is_closed:
                return
            self._grown.clear()
            try:
                async with asyncio.timeout(_SILENT_S):
                    await self._grown.wait()
            except TimeoutError:
                yield b":\n\n"


def frame(event: str, data: Any, number: int | None = None) -> bytes:
    """One server-sent event (HTML standard, section 9.2)."""
    id = b"" if number is None else b"id: %d\n" % number
    return b"%bevent: %b\ndata: %b\n\n" % (id, event.encode(), orjson.dumps(data))
