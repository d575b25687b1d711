"""Streamed answers of FastAPI's routes that let go of what they read from as soon as the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventsResponse(StreamingResponse):
    """Server-sent events, as frames that are whole."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._frames):
            await super().__call__(scope, receive, send)


async def begun(pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
    """The pieces of a generator that blocks. The first is made at once, so that its errors come before the answer."""
    first = await asyncio.to_thread(next, pieces, b"")

    async def rest() -> AsyncGenerator[bytes, None]:
        making: asyncio.Future[bytes | None] | None = None
        try:
            yield first
            while True:
                making = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
                piece = await asyncio.shield(making)
                if piece is None:
                    return
                yield piece
        finally:
            if making is not None:
                await asyncio.wait([making])  # a generator that runs cannot be closed
            await asyncio.to_thread(pieces.close)

    return rest()


class FileResponse(StreamingResponse):
    """A file that is made while it is sent, in pieces from `begun`."""

    media_type = "application/octet-stream"

    def __init__(self, name: str, pieces: AsyncGenerator[bytes, None]) -> None:
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        super().__init__(pieces, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)
