"""A bounded ring of frames: one producer, many readers, each of whom goes on from where it left off.

What is streamed passes through one, so that a reader who was away finds what it missed. Nothing goes to a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Lagged(Exception):
    """The frames that come next for this reader are no longer kept, or its number was never given."""


class Ring:
    """The newest frames, numbered from 1. Beyond a capacity the oldest go; the newest one always stays."""

    def __init__(self, capacity_frames: int, capacity_bytes: int) -> None:
        self._capacity_frames = capacity_frames
        self._capacity_bytes = capacity_bytes
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._grown = asyncio.Event()
        self.last = 0
        """Number of the newest frame; 0 before there is one."""
        self.is_closed = False
        """Whether no more frames come."""

    def append(self, frame: bytes) -> int:
        """Keep `frame` and wake the readers who wait for it. Gives its number; never waits."""
        if self.is_closed:
            raise RuntimeError("the ring is closed")
        self.last += 1
        self._kept[self.last] = frame
        self._kept_bytes += len(frame)
        while len(self._kept) > self._capacity_frames or self._kept_bytes > self._capacity_bytes:
            if len(self._kept) == 1:
                break
            self._kept_bytes -= len(self._kept.pop(self.last - len(self._kept) + 1))
        self._grown.set()
        return self.last

    def keeps(self, after: int) -> bool:
        """Whether everything that came after number `after` is still here."""
        return self.last - len(self._kept) <= after <= self.last

    def next(self, after: int) -> tuple[int, bytes] | None:
        """The frame that follows number `after`, with its number; None if it has not come yet. Raises Lagged."""
        if not self.keeps(after):
            raise Lagged(
                f"frames {self.last - len(self._kept) + 1} to {self.last} are kept, not after {after}"
            )
        return None if after == self.last else (after + 1, self._kept[after + 1])

    async def more(self, after: int) -> None:
        """Wait until there is a frame after number `after`, or the ring is closed."""
        while self.last <= after and not self.is_closed:
            self._grown.clear()
            await self._grown.wait()

    async def read(self, after: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """What is kept after number `after`, then what comes, until the ring is closed.

        Raises Lagged as soon as a frame is gone that this reader has not had.
        """
        while True:
            found = self.next(after)
            if found is not None:
                after = found[0]
                yield found
            elif self.is_closed:
                return
            else:
                await self.more(after)

    def close(self) -> None:
        """No more frames come: readers get what is kept, and end."""
        self.is_closed = True
        self._grown.set()
