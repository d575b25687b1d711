"""The client of a worker's socket, against a real server on a real socket, which a test makes good or bad."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from allod.kernel.worker_http import Answer, WorkerHttp
from allod.sdk.errors import EngineGone
from allod.sdk.processes import Address

_SOON_S = 5
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Visit:
    """One connection, as the server sees it, with one of its requests."""

    number: int
    request: int
    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            async with asyncio.timeout(_SOON_S):
                assert await self.reader.read() == b""
        except ConnectionResetError:
            pass


Play = Callable[[Visit], Awaitable[None]]


@dataclass
class Server:
    """Plays each request's part; a connection ends when its part raises EOFError."""

    path: Path
    play: Play
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0
    trouble: list[BaseException] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    running: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        task = asyncio.create_task(self.serve(reader, writer))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, request = self.connections, 0
        try:
            while head := await _head(reader):
                request += 1
                length = int(next(x for x in head.splitlines() if x.startswith("Content-Length")).split()[1])
                body = await reader.readexactly(length)
                visit = Visit(number, request, head, body, reader, writer)
                self.visits.append(visit)
                await self.play(visit)
        except (EOFError, ConnectionError):
            pass
        except Exception as error:
            self.trouble.append(error)
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


@asynccontextmanager
async def serving(folder: Path, play: Play) -> AsyncIterator[tuple[Server, WorkerHttp]]:
    server = Server(folder / "s.sock", play)
    listening = await asyncio.start_unix_server(server.accept, server.path)
    client = WorkerHttp(Address(str(server.path)), "'m'")
    try:
        yield server, client
    finally:
        client.close()
        listening.close()
        for writer in server.writers:
            writer.transport.abort()
        while server.running:
            await asyncio.wait(server.running, timeout=_SOON_S)
        assert server.trouble == []


async def plain(visit: Visit) -> None:
    await visit.say(PLAIN)


async def test_a_request_goes_out_as_json_and_its_answer_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, client):
        reply = await client.request("POST", "/tokenize", {"content": "分析"})
        assert (reply.status, reply.body) == (200, b"ok")
        (visit,) = server.visits
        assert visit.head.startswith("POST /tokenize HTTP/1.1\r\nHost: worker\r\n")
        assert "Content-Type: application/json\r\n" in visit.head
        assert json.loads(visit.body) == {"content": "分析"}


async def test_a_request_without_a_body_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, client):
        await client.request("GET", "/health")
        assert server.visits[0].head.startswith("GET /health ")
        assert server.visits[0].body == b""


async def test_a_worker_s_key_is_sent(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, _):
        with_key = WorkerHttp(Address(str(server.path), key="k"), "'m'")
        await with_key.request("GET", "/")
        with_key.close()
        assert "Authorization: Bearer k\r\n" in server.visits[0].head


@pytest.mark.parametrize("status", [204, 400, 500])
async def test_any_status_is_an_answer(tmp_path: Path, status: int) -> None:
    async def refuse(visit: Visit) -> None:
        body = b"" if status == 204 else b"no"
        await visit.say(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    async with serving(tmp_path, refuse) as (_, client):
        assert (await client.request("GET", "/")).status == status


async def test_a_stream_is_read_as_it_comes(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def stream(visit: Visit) -> None:
        await visit.say(CHUNKED + chunk(b"one"))
        await go_on.wait()
        await visit.say(chunk(b"two") + chunk(b"three") + LAST_CHUNK)

    async with serving(tmp_path, stream) as (_, client):
        answer = await client.stream("/", {})
        assert answer.status == 200
        async with aclosing(answer.chunks()) as chunks:
            assert await anext(chunks) == b"one"
            go_on.set()
            assert b"".join([piece async for piece in chunks]) == b"twothree"


async def test_an_answer_may_come_byte_by_byte(tmp_path: Path) -> None:
    async def stutter(visit: Visit) -> None:
        for byte in CHUNKED + chunk(b"one") + chunk(b"two") + LAST_CHUNK:
            await visit.say(bytes([byte]))
            await asyncio.sleep(0)

    async with serving(tmp_path, stutter) as (_, client):
        assert (await client.request("GET", "/")).body == b"onetwo"


# connections


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, client):
        for _ in range(5):
            await client.request("GET", "/")
        assert (server.connections, [visit.request for visit in server.visits]) == (1, [1, 2, 3, 4, 5])


async def test_a_connection_carries_one_request_at_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, client):
        await asyncio.gather(*(client.request("GET", "/") for _ in range(3)))
        assert server.connections == 3


async def test_a_connection_is_given_up_before_llama_cpp_would_close_it(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as (server, client):
        for _ in range(95):  # llama.cpp closes after 100
            await client.request("GET", "/")
        assert [visit.number for visit in server.visits].count(1) == 90
        assert server.connections == 2


@pytest.mark.parametrize(("idle_s", "connections"), [(3.0, 1), (4.0, 2)])
async def test_an_idle_connection_is_given_up_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_s: float, connections: int
) -> None:
    clock = _Clock()
    monkeypatch.setattr("allod.kernel.worker_http.time", clock)
    async with serving(tmp_path, plain) as (server, client):
        await client.request("GET", "/")
        clock.now += idle_s
        await client.request("GET", "/")
        assert server.connections == connections


@dataclass
class _Clock:
    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


async def test_a_server_that_closes_after_each_answer_is_asked_on_a_new_connection(tmp_path: Path) -> None:
    async def close(visit: Visit) -> None:
        await visit.say(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        raise EOFError

    async with serving(tmp_path, close) as (server, client):
        for _ in range(2):
            assert (await client.request("GET", "/")).body == b"ok"
        assert server.connections == 2


async def test_a_connection_that_has_gone_stale_is_replaced(tmp_path: Path) -> None:
    async def close_on_the_second(visit: Visit) -> None:
        if visit.request == 2:
            raise EOFError
        await visit.say(PLAIN)

    async with serving(tmp_path, close_on_the_second) as (server, client):
        for _ in range(2):
            assert (await client.request("GET", "/")).body == b"ok"
        assert [(visit.number, visit.request) for visit in server.visits] == [(1, 1), (1, 2), (2, 1)]


async def test_a_new_connection_that_ends_without_an_answer_is_not_tried_again(tmp_path: Path) -> None:
    async def close(visit: Visit) -> None:
        raise EOFError

    async with serving(tmp_path, close) as (server, client):
        with pytest.raises(EngineGone, match="'m' ended while it worked") as caught:
            await client.request("GET", "/")
        assert (caught.value.reached, len(server.visits)) == (False, 1)


async def test_nothing_is_sent_twice_once_a_byte_of_the_answer_has_come(tmp_path: Path) -> None:
    async def break_off_the_second(visit: Visit) -> None:
        if visit.request == 2:
            await visit.say(b"H")
            raise EOFError
        await visit.say(PLAIN)

    async with serving(tmp_path, break_off_the_second) as (server, client):
        await client.request("GET", "/")
        with pytest.raises(EngineGone):
            await client.request("GET", "/")
        assert len(server.visits) == 2


async def test_a_worker_that_dies_before_it_answers_reached_nobody(tmp_path: Path) -> None:
    async def die_on_the_second(visit: Visit) -> None:
        if visit.request == 2:
            server.path.unlink()
            raise EOFError
        await visit.say(PLAIN)

    async with serving(tmp_path, die_on_the_second) as (server, client):
        await client.request("GET", "/")
        with pytest.raises(EngineGone) as caught:
            await client.request("GET", "/")
        assert not caught.value.reached


async def test_what_nobody_asked_for_does_not_get_into_the_next_answer(tmp_path: Path) -> None:
    async def say_too_much(visit: Visit) -> None:
        await visit.say(PLAIN + PLAIN.replace(b"ok", b"no"))

    async with serving(tmp_path, say_too_much) as (server, client):
        for _ in range(2):
            assert (await client.request("GET", "/")).body == b"ok"
            await asyncio.sleep(0)
        assert server.connections == 2


@pytest.mark.parametrize("is_there", [False, True])
async def test_where_nobody_listens_the_request_reached_nobody(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "s.sock"
    if is_there:
        (await asyncio.start_unix_server(lambda r, w: None, path)).close()
    with pytest.raises(EngineGone, match="'m' is not running") as caught:
        await WorkerHttp(Address(str(path)), "'m'").request("GET", "/")
    assert not caught.value.reached


# leaving, and waiting


async def leaves(answer: Answer) -> None:
    async with aclosing(answer.chunks()) as chunks:
        await anext(chunks)


async def test_leaving_a_stream_early_closes_its_connection(tmp_path: Path) -> None:
    async def endless(visit: Visit) -> None:
        await visit.say(CHUNKED + chunk(b"one"))
        await visit.ended()

    async with serving(tmp_path, endless) as (server, client):
        await leaves(await client.stream("/", {}))
        await leaves(await client.stream("/", {}))
        assert server.connections == 2


async def test_leaving_before_the_head_has_come_closes_the_connection(tmp_path: Path) -> None:
    async def silent(visit: Visit) -> None:
        asked.set()
        await visit.ended()

    asked = asyncio.Event()
    async with serving(tmp_path, silent) as (_, client):
        task = asyncio.create_task(client.stream("/", {}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_request_has_a_time_limit(tmp_path: Path) -> None:
    async def halting(visit: Visit) -> None:
        await visit.say(CHUNKED + chunk(b"one"))
        await visit.ended()

    async with serving(tmp_path, halting) as (_, client):
        with pytest.raises(EngineGone, match=r"'m' did not answer within 0\.05 s"):
            await client.request("GET", "/", timeout_s=0.05)


async def test_a_reader_that_is_slow_makes_the_worker_wait(tmp_path: Path) -> None:
    piece, pieces = b"x" * 65536, 400
    sent = 0

    async def pour(visit: Visit) -> None:
        nonlocal sent
        await visit.say(CHUNKED)
        for _ in range(pieces):
            await visit.say(chunk(piece))
            sent += 1
        await visit.say(LAST_CHUNK)

    async with serving(tmp_path, pour) as (_, client):
        answer = await client.stream("/", {})
        async with aclosing(answer.chunks()) as chunks:
            got = len(await anext(chunks))
            before = -1
            while before != sent:  # until the worker gets no further
                before = sent
                await asyncio.sleep(0.05)
            assert sent < pieces / 4
            async for data in chunks:
                got += len(data)
        assert got == pieces * len(piece)


# broken answers


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        PLAIN[:-1],
        CHUNKED,
        CHUNKED + chunk(b"one"),
        CHUNKED + b"zz\r\none\r\n",
        CHUNKED + chunk(b"one") + b"ffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nwithout any length",
    ],
)
async def test_a_broken_answer_is_a_worker_that_is_gone(tmp_path: Path, said: bytes) -> None:
    async def broken(visit: Visit) -> None:
        await visit.say(said)
        raise EOFError

    async with serving(tmp_path, broken) as (server, client):
        with pytest.raises(EngineGone, match="ended while it worked"):
            await client.request("GET", "/")
        assert server.connections == 1


async def test_what_came_before_the_break_is_handed_over_first(tmp_path: Path) -> None:
    async def broken(visit: Visit) -> None:
        await visit.say(CHUNKED + chunk(b"one"))
        raise EOFError

    async with serving(tmp_path, broken) as (_, client):
        async with aclosing((await client.stream("/", {})).chunks()) as chunks:
            assert await anext(chunks) == b"one"
            with pytest.raises(EngineGone):
                await anext(chunks)
