"""HTTP to one child process over its socket: small, because every token passes here.

Connections are kept for less time than llama.cpp keeps them (5 s, 100 requests); one that has gone stale is replaced
once, if no byte of an answer came. A reader that leaves early closes its connection, which stops the child's work.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import httptools
import orjson

from allod.sdk.errors import EngineGone
from allod.sdk.processes import Address, Reply

_IDLE_S = 3.5
_USES = 90
_HIGH_WATER = 256 * 1024
_CONNECT_TRIES = 20  # a full backlog refuses for a moment


class WorkerHttp:
    """A client of one child. `name` is the child's name in error messages."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._idle: list[_Connection] = []
        key = f"Authorization: Bearer {address.key}\r\n" if address.key else ""
        self._head = f"HTTP/1.1\r\nHost: worker\r\n{key}Content-Type: application/json\r\nContent-Length: "

    async def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 60) -> Reply:
        """Send `body` as JSON and wait for the whole answer."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._send(method, path, body)
                return Reply(answer.status, await answer.read())
        except TimeoutError:
            raise EngineGone(f"{self._name} did not answer within {timeout_s:g} s.") from None

    async def stream(self, path: str, body: Any) -> Answer:
        """POST `body` as JSON and wait for the head of the answer, however long that takes."""
        return await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: Any) -> Answer:
        data = orjson.dumps(body) if body is not None else b""
        message = f"{method} {path} {self._head}{len(data)}\r\n\r\n".encode() + data
        while connection := self._take_idle():
            try:
                return await self._converse(connection, message)
            except EngineGone:
                if not connection.is_stale:
                    raise
        return await self._converse(await self._connect(), message)

    async def _converse(self, connection: _Connection, message: bytes) -> Answer:
        try:
            await connection.begin(message)
        except BaseException:
            connection.abort()
            raise
        return Answer(self, connection)

    def _take_idle(self) -> _Connection | None:
        oldest = time.monotonic() - _IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since > oldest and connection.uses < _USES and not connection.is_closed:
                return connection
            connection.abort()
        return None

    def keep(self, connection: _Connection) -> None:
        """Take back a connection whose answer has ended."""
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()

        def make() -> _Connection:
            return _Connection(self._name)

        for attempt in range(_CONNECT_TRIES):
            try:
                if self._address.port:
                    _, made = await loop.create_connection(make, self._address.host, self._address.port)
                else:
                    _, made = await loop.create_unix_connection(make, self._address.host)
                return made
            except OSError as error:
                if error.errno != errno.EAGAIN or attempt == _CONNECT_TRIES - 1:
                    raise EngineGone(f"{self._name} is not running.", reached=False) from error
                await asyncio.sleep(0.02)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().abort()


class Answer:
    """An answer whose head has come. Read its body once."""

    def __init__(self, client: WorkerHttp, connection: _Connection) -> None:
        self._client = client
        self._connection = connection
        self.status = connection.status

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, pieces that have piled up joined."""
        connection = self._connection
        try:
            while (data := await connection.next()) is not None:
                yield data
        finally:
            if connection.is_complete and connection.keeps_alive:
                self._client.keep(connection)
            else:
                connection.abort()

    async def read(self) -> bytes:
        """The whole body."""
        async with aclosing(self.chunks()) as chunks:
            return b"".join([chunk async for chunk in chunks])


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._paused = False
        self._has_head = False
        self._saw_bytes = False
        self.status = 0
        self.uses = 0
        self.idle_since = 0.0
        self.is_complete = False
        self.is_closed = False
        self.keeps_alive = False

    @property
    def is_stale(self) -> bool:
        """Whether it was used before and ended before any byte of this answer."""
        return self.uses > 1 and self.is_closed and not self._saw_bytes

    async def begin(self, message: bytes) -> None:
        """Send a request and wait for the head of its answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = self._saw_bytes = self.is_complete = False
        self.uses += 1
        assert self._transport is not None
        self._transport.write(message)
        while not self._has_head:
            if self.is_closed:
                raise self._gone()
            await self._wait()

    async def next(self) -> bytes | None:
        """The next piece of the body; None at its end."""
        while not self._body:
            if self.is_complete:
                return None
            if self.is_closed:
                raise self._gone()
            await self._wait()
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """Close at once."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _gone(self) -> EngineGone:
        return EngineGone(f"{self._name} ended while it worked on this request.", reached=self._saw_bytes)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._saw_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
        if self._size > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.is_closed = True
        self._wake()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Called by the parser, which gives up when this raises."""
        if self.is_complete:
            raise ValueError("an answer that nobody asked for")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()
        self.keeps_alive = self._parser.should_keep_alive()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = True
