"""A web server on loopback that answers as it is told, and notes who came and what they said."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Heard:
    """One request as it arrived. Headers by small names."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """`connections` counts those that were accepted; `gone` is set when the other side has closed one."""

    answer: Answering
    reads_bodies: bool = True
    port: int = 0
    connections: int = 0
    heard: list[Heard] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_Reader(self.gone), self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                heard = await _head(reader)
                self.heard.append(heard)
                self.arrived.set()
                if self.reads_bodies:
                    heard.body = await _body(reader, heard.headers)
                await self.answer(heard, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or the site closes
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    def close(self) -> None:
        for task in self._serving:
            task.cancel()


class _Reader(asyncio.StreamReader):
    """Tells at once when the other side has closed, whether or not anybody reads."""

    def __init__(self, gone: asyncio.Event) -> None:
        super().__init__()
        self._gone = gone

    def feed_eof(self) -> None:
        self._gone.set()
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        self._gone.set()
        super().set_exception(exc)


async def _head(reader: asyncio.StreamReader) -> Heard:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    pairs = (line.partition(":") for line in lines[1:-2])
    return Heard(method, path, {name.lower(): value.strip() for name, _, value in pairs}, b"")


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


@asynccontextmanager
async def site(
    answer: Answering,
    *,
    reads_bodies: bool = True,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Site]:
    """A site on a free port of loopback, for as long as the block runs."""
    made = Site(answer, reads_bodies)
    server = await asyncio.get_running_loop().create_server(made.protocol, host, 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.close()
        await asyncio.gather(*made._serving, return_exceptions=True)
        await server.wait_closed()


def says(body: bytes = b"hello", status: int = 200, **headers: str) -> Answering:
    """Answers always this. Underscores in names of headers stand for dashes."""
    lines = [f"HTTP/1.1 {status} Fine", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body if heard.method != "HEAD" else b""))
        await writer.drain()

    return answer


def redirects(location: str, status: int = 302, first: int = 1) -> Answering:
    """Redirects the first requests, `first` of them, then says hello."""
    left = [first]
    hello, redirect = says(), says(b"moved", status, Location=location)

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        left[0] -= 1
        await (redirect if left[0] >= 0 else hello)(heard, writer)

    return answer


def begins(head: bytes, wait_for: asyncio.Event | None = None, then: bytes = b"") -> Answering:
    """Writes `head` to the letter; then waits, for ever if nothing is said, writes the rest and closes."""

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await (wait_for or asyncio.Event()).wait()
        writer.write(then)
        await writer.drain()
        writer.close()

    return answer
