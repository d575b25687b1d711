"""The load generator's HTTP client: as little Python for each byte as there can be, so that it measures others."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, cast

import httptools
import orjson

CHAT = "/v1/chat/completions"
_FRAME = b"data: {"
_TEXT = b'"delta":{"content":"'


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask: a unix socket, or a port of 127.0.0.1."""

    name: str
    unix: str = ""
    port: int = 0


def message(body: dict[str, Any]) -> bytes:
    """A whole POST of a chat."""
    data = orjson.dumps(body)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Connection(asyncio.Protocol):
    """One connection, one request at a time. After each, `first_s`, `end_s`, `frames` and `status` tell of it."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._parser: Any = None
        self.status = 0
        self.frames = 0
        self.began_s = self.first_s = self.end_s = 0.0

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for the end of its answer. Raises RuntimeError if that does not come."""
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self.frames = 0
        self.first_s = 0.0
        self.began_s = time.perf_counter()
        self._transport.write(request)
        await self._done
        if self.status != 200:
            raise RuntimeError(f"the answer has status {self.status}")

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(RuntimeError(f"the connection ended in mid-answer: {exc}"))

    def on_body(self, data: bytes) -> None:
        self.frames += data.count(_FRAME)
        if not self.first_s and _TEXT in data:
            self.first_s = time.perf_counter()

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.end_s = time.perf_counter()
        if self._done is not None:
            self._done.set_result(None)


async def connect(place: Place) -> Connection:
    """A new connection."""
    loop = asyncio.get_running_loop()
    if place.unix:
        _, made = await loop.create_unix_connection(Connection, place.unix)
    else:
        _, made = await loop.create_connection(Connection, "127.0.0.1", place.port)
    return made
