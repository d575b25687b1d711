"""Server-sent events outward: the head as early as possible, signs of life, errors in mid-stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from allod.gateway.errors import as_allod_error, error_frame
from allod.gateway.exchange import Exchange, Headers

DONE = b"data: [DONE]\n\n"
COMMENT = b":\n\n"
_BEAT_S = 10
_HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


async def send_frames(exchange: Exchange, frames: AsyncGenerator[bytes, None]) -> None:
    """Send whole frames as they come, then [DONE].

    The head leaves with the first frame, or after 10 s without one; until then an error keeps its status, and is
    raised. Later it becomes a frame of its own, and the stream ends without [DONE].
    """
    beat = asyncio.create_task(_beat(exchange, life := _Life()))
    try:
        async with aclosing(frames):
            async for frame in frames:
                if not exchange.has_begun:
                    await exchange.begin(200, _HEADERS)
                life.shown = True
                await exchange.write(frame)
        await exchange.write(DONE, more=False)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if not exchange.has_begun:
            raise
        await exchange.write(error_frame(as_allod_error(error)), more=False)
    finally:
        beat.cancel()


class _Life:
    """Whether anything was sent since the last beat."""

    shown = False


async def _beat(exchange: Exchange, life: _Life) -> None:
    while True:
        life.shown = False
        await asyncio.sleep(_BEAT_S)
        if not life.shown:
            if not exchange.has_begun:
                await exchange.begin(200, _HEADERS)
            await exchange.write(COMMENT)
