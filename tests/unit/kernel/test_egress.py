"""The gate: nothing passes but what is declared and granted; once is once; what is cut off ends in mid-word."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from allod.kernel import custody, schema
from allod.kernel.egress_ledger import KEPT_ROWS, KEPT_S
from allod.sdk.errors import BadRequest, EgressFailed, EgressRefused, ExtensionFailed, NotFound
from allod.sdk.events import EgressAsked
from tests.unit.kernel.gate import Gate, opened_gate
from tests.unit.kernel.site import Heard, begins, redirects, says, site

CANARY = "sesame"


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    async with opened_gate(tmp_path) as gate:
        yield gate


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# what passes


async def test_nothing_connects_before_a_grant_not_even_to_ask_for_a_name(gate: Gate) -> None:
    async with site(says()) as there:
        with pytest.raises(EgressRefused) as told:
            await gate.get(f"http://a.example:{there.port}/")
        await turns()
        host = f"a.example:{there.port}"
        assert told.value.fix.endswith(f"allod egress allow ext {host}")
        assert gate.asked == [EgressAsked("ext", "test", host)]
        assert (await gate.last()).verdict == "ungranted"
        assert (there.connections, gate.looked_up) == (0, [])
        await gate.allow(host)
        assert await gate.get(f"http://a.example:{there.port}/") == b"hello"
        assert (there.connections, len(gate.asked)) == (1, 1)
        entry = await gate.last()
        assert (entry.verdict, entry.status, entry.host, entry.extension) == ("allowed", 200, host, "ext")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "app.localhost"])
async def test_loopback_is_no_exception(gate: Gate, host: str) -> None:
    async with site(says()) as there:
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}:{there.port}/")
        assert there.connections == 0
        await gate.allow(f"{host}:{there.port}")
        assert await gate.get(f"http://{host}:{there.port}/") == b"hello"


async def test_ipv6_needs_a_grant_too(gate: Gate) -> None:
    async with site(says(), host="::1") as there:
        with pytest.raises(EgressRefused):
            await gate.get(f"http://[::1]:{there.port}/")
        await gate.allow(f"[::1]:{there.port}")
        assert await gate.get(f"http://[0:0::1]:{there.port}/") == b"hello"


async def test_a_grant_without_a_port_is_for_the_scheme_s_own_port(gate: Gate) -> None:
    async with site(says()) as there:
        await gate.allow("a.example", f"b.example:{there.port + 1}")
        for host in ("a.example", "b.example"):
            with pytest.raises(EgressRefused):
                await gate.get(f"http://{host}:{there.port}/")
        assert there.connections == 0
    with pytest.raises(EgressFailed):  # allowed; nobody is there
        await gate.get("http://a.example/")
    assert (await gate.last()).host == "a.example"


@pytest.mark.parametrize(
    ("declared", "host", "passes"),
    [
        (["a.localhost"], "a.localhost", True),
        (["a.localhost"], "b.localhost", False),
        (["a.localhost"], "x.a.localhost", False),
        (["*.a.localhost"], "x.a.localhost", True),
        (["*.a.localhost"], "x.y.a.localhost", True),
        (["*.a.localhost"], "a.localhost", False),
        (["*.a.localhost"], "xa.localhost", False),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "localhost", False),
        ([], "a.localhost", False),
        (["user"], "a.localhost", True),
        (["b.localhost", "user"], "a.localhost", True),
    ],
)
async def test_a_grant_is_worth_nothing_where_the_manifest_does_not_declare_the_host(
    tmp_path: Path, declared: list[str], host: str, passes: bool
) -> None:
    async with opened_gate(tmp_path, declared) as gate, site(says()) as there:
        await gate.allow(f"{host}:{there.port}")
        if passes:
            assert await gate.get(f"http://{host}:{there.port}/") == b"hello"
            return
        with pytest.raises(EgressRefused, match="does not declare"):
            await gate.get(f"http://{host}:{there.port}/")
        assert (there.connections, await gate.verdicts()) == (0, ["undeclared"])
        await turns()
        assert gate.asked == []


async def test_a_manifest_that_declares_no_host_is_its_author_s_mistake(gate: Gate) -> None:
    with pytest.raises(ExtensionFailed, match="'bad'"):
        gate.egress.client("bad", ["https://a.example/"])


async def test_a_grant_is_for_one_extension_one_purpose_and_one_host(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.egress.allow("other", host)
        await gate.allow(host, purpose="model download")
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}/", purpose="chat")
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}/", purpose="*")
        with pytest.raises(EgressRefused):
            await gate.get(f"http://b.example:{there.port}/", purpose="model download")
        assert there.connections == 0
        assert await gate.get(f"http://{host}/", purpose="model download") == b"hello"
        await gate.allow(host)
        assert await gate.get(f"http://{host}/", purpose="chat") == b"hello"


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"ftp://a.example/{CANARY}",
            f"file:///{CANARY}",
            f"//a.example/{CANARY}",
            f"/{CANARY}",
            f"{CANARY}",
        ),
        *(f"http://{CANARY}@a.example/", f"http://x:{CANARY}@a.example/", f"http://a {CANARY}/"),
        *(f"http://2130706433/{CANARY}", f"http://0x7f.1/{CANARY}", f"http://0177.0.0.1/{CANARY}"),
        *(
            f"http://[::1/{CANARY}",
            f"http://a.example:99999/{CANARY}",
            f"http://a.example\\@{CANARY}.example/",
        ),
    ],
)
async def test_what_is_no_address_of_the_web_is_refused_and_not_repeated(
    gate: Gate, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EgressRefused) as told:
        await gate.get(url)
    entry = await gate.last()
    assert (entry.verdict, entry.host) == ("malformed", "")
    assert CANARY not in told.value.message + repr(entry) + caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Host": "b.example"}},
        {"headers": {"transfer-encoding": "chunked"}},
        {"headers": {"Connection": "upgrade"}},
        {"headers": {"a": f"b\r\nc: {CANARY}"}},
        {"headers": {f"a: {CANARY}\r\nb": "c"}},
        {"json": {}, "body": b"x"},
        {"purpose": ""},
        {"purpose": f"{CANARY}\n"},
        {"purpose": CANARY * 20},
        {"method": f"GET /{CANARY}"},
        {"method": "CONNECT"},
        {"method": ""},
    ],
    ids=str,
)
async def test_what_is_not_an_extension_s_to_say_is_refused(gate: Gate, wrong: dict[str, Any]) -> None:
    async with site(says()) as there:
        await gate.allow(f"a.example:{there.port}")
        method = wrong.pop("method", "GET")
        with pytest.raises(EgressRefused) as told:
            async with gate.client.open(
                method, f"http://a.example:{there.port}/", **{"purpose": "test", **wrong}
            ):
                pass
        assert there.connections == 0
        entry = await gate.last()
        assert entry.verdict == "malformed"
        assert CANARY not in told.value.message + repr(entry)


# the user's words


async def test_grants_and_the_switch_are_kept(tmp_path: Path) -> None:
    async with opened_gate(tmp_path) as gate:
        await gate.allow("A.Example.", "b.example:8080")
        await gate.egress.set_offline(True)
        before = gate.egress.grants()
    async with opened_gate(tmp_path) as gate:
        assert gate.egress.grants() == before
        assert [grant.host for grant in before] == ["a.example", "b.example:8080"]
        assert gate.egress.offline is True
        with pytest.raises(EgressRefused, match="offline") as told:
            await gate.get("http://a.example/")
        assert told.value.fix == "allod egress offline off"
        assert (await gate.last()).verdict == "offline"
        await gate.egress.set_offline(False)
        with pytest.raises(EgressFailed):
            await gate.get("http://a.example/")
    async with opened_gate(tmp_path) as gate:
        assert gate.egress.offline is False


async def test_before_it_is_loaded_nothing_is_granted(tmp_path: Path) -> None:
    from allod.kernel.egress import Egress
    from allod.kernel.events import EventBus

    async with opened_gate(tmp_path) as gate, site(says()) as there:
        await gate.allow(f"a.example:{there.port}")
        unloaded = Egress(gate.database, EventBus().of("test"))
        with pytest.raises(EgressRefused):
            async with unloaded.client("ext", ["user"]).open(
                "GET", f"http://a.example:{there.port}/", purpose="test"
            ):
                pass
        await unloaded.close()
        assert there.connections == 0


async def test_allowing_twice_is_allowing_once(gate: Gate) -> None:
    first = await gate.egress.allow("ext", "a.example")
    assert await gate.egress.allow("ext", " A.EXAMPLE ") == first
    once = await gate.egress.allow("ext", "a.example", once=True)
    other = await gate.egress.allow("ext", "a.example", "chat")
    assert gate.egress.grants() == [first, once, other]


@pytest.mark.parametrize(
    "host", ["", "https://a.example", "a.example/x", "*.example", "127.1", "a:0", "u@a.example"]
)
async def test_only_hosts_can_be_allowed(gate: Gate, host: str) -> None:
    with pytest.raises(BadRequest) as told:
        await gate.egress.allow("ext", host)
    assert told.value.param == "host"
    with pytest.raises(BadRequest):
        await gate.egress.deny("ext", host)


@pytest.mark.parametrize("purpose", ["", "a\nb", "x" * 101])
async def test_only_words_can_be_purposes(gate: Gate, purpose: str) -> None:
    with pytest.raises(BadRequest) as told:
        await gate.egress.allow("ext", "a.example", purpose)
    assert (told.value.param, gate.egress.grants()) == ("purpose", [])


async def test_denying_takes_exactly_what_is_meant(gate: Gate) -> None:
    await gate.allow("a.example", "a.example:81", "b.example")
    await gate.allow("a.example", purpose="chat")
    await gate.allow("a.example", once=True)
    await gate.egress.allow("other", "a.example")

    def left() -> list[tuple[str, str, str]]:
        return [(grant.extension, grant.host, grant.purpose) for grant in gate.egress.grants()]

    await gate.egress.deny("ext", "a.example", "chat")
    assert len(left()) == 5
    with pytest.raises(NotFound):
        await gate.egress.deny("ext", "a.example", "chat")
    await gate.egress.deny("ext", "A.example")
    assert left() == [("ext", "a.example:81", "*"), ("ext", "b.example", "*"), ("other", "a.example", "*")]
    await gate.egress.load()
    assert len(left()) == 3
    for extension, host in (("ext", "a.example"), ("ext", "c.example"), ("nobody", "a.example")):
        with pytest.raises(NotFound):
            await gate.egress.deny(extension, host)


async def test_a_grant_that_the_store_does_not_take_is_none(gate: Gate) -> None:
    await gate.allow("a.example")
    await gate.sql("ALTER TABLE kernel__grants RENAME TO elsewhere")
    with pytest.raises(Exception, match="no such table"):
        await gate.allow("b.example")
    with pytest.raises(Exception, match="no such table"):
        await gate.egress.deny("ext", "a.example")
    assert [grant.host for grant in gate.egress.grants()] == ["a.example"]


async def test_going_offline_holds_even_if_the_store_does_not_take_it(gate: Gate) -> None:
    await gate.sql("ALTER TABLE kernel__facts RENAME TO elsewhere")
    with pytest.raises(Exception, match="no such table"):
        await gate.egress.set_offline(True)
    assert gate.egress.offline is True
    with pytest.raises(Exception, match="no such table"):
        await gate.egress.set_offline(False)
    assert gate.egress.offline is True


# once


async def test_of_many_at_the_same_time_one_uses_a_grant_for_once(gate: Gate, tmp_path: Path) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, once=True)
        got = await asyncio.gather(*(gate.get(f"http://{host}/") for _ in range(20)), return_exceptions=True)
        assert [body for body in got if isinstance(body, bytes)] == [b"hello"]
        assert sum(isinstance(error, EgressRefused) for error in got) == 19
        assert (there.connections, len(there.heard)) == (1, 1)
        assert gate.egress.grants() == []
        await gate.egress.load()
        assert gate.egress.grants() == []


async def test_once_is_kept_until_it_is_used_and_lasting_ones_are_used_first(tmp_path: Path) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        async with opened_gate(tmp_path) as gate:
            await gate.allow(host, once=True)
            await gate.allow(host)
            assert await gate.get(f"http://{host}/") == b"hello"
            assert [grant.once for grant in gate.egress.grants()] == [True, False]
            await gate.egress.allow("ext", "b.example", once=True)
        async with opened_gate(tmp_path) as gate:
            await gate.sql("DELETE FROM kernel__grants WHERE NOT once")
            await gate.egress.load()
            assert await gate.get(f"http://{host}/") == b"hello"
            with pytest.raises(EgressRefused):
                await gate.get(f"http://{host}/")


async def test_a_refused_request_uses_up_nothing(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, once=True, purpose="chat")
        await gate.egress.set_offline(True)
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}/", purpose="chat")
        await gate.egress.set_offline(False)
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}/", purpose="other")
        assert await gate.get(f"http://{host}/", purpose="chat") == b"hello"


async def test_a_grant_that_cannot_be_used_up_lets_nothing_through(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, once=True)
        await gate.sql("ALTER TABLE kernel__grants RENAME TO elsewhere")
        with pytest.raises(Exception, match="no such table"):
            await gate.get(f"http://{host}/")
        assert (there.connections, await gate.verdicts()) == (0, [])


async def test_one_grant_for_once_is_enough_for_a_request_and_its_redirects_to_the_same_host(
    gate: Gate,
) -> None:
    async with site(redirects("/elsewhere")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, once=True)
        assert await gate.get(f"http://{host}/") == b"hello"
        assert [heard.path for heard in there.heard] == ["/", "/elsewhere"]
        with pytest.raises(EgressRefused):
            await gate.get(f"http://{host}/")


# cut off


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
PARTS = {"before the head": b"HTTP/1.1 200", "in the body": HEAD + b"half"}


Cut = Callable[[Gate, str], Awaitable[None]]


async def by_switch(gate: Gate, host: str) -> None:
    await gate.egress.set_offline(True)


async def by_denial(gate: Gate, host: str) -> None:
    await gate.egress.deny("ext", host)


CUTS: dict[Cut, tuple[str, str]] = {
    by_switch: ("went offline", "offline"),
    by_denial: ("took back", "denied"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("part", PARTS)
async def test_what_runs_ends_at_once(gate: Gate, cut: Cut, once: bool, part: str) -> None:
    words, verdict = CUTS[cut]
    async with site(begins(PARTS[part])) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, once=once)
        running = asyncio.create_task(gate.get(f"http://{host}/"))
        await there.arrived.wait()
        await turns()
        assert not running.done()
        await cut(gate, host)
        with pytest.raises(EgressRefused, match=words):
            await running
        await asyncio.wait_for(there.gone.wait(), 5)
        entry = await gate.last()
        assert (entry.verdict, entry.status) == (verdict, 200 if part == "in the body" else None)


async def test_what_nobody_reads_just_now_ends_too(gate: Gate) -> None:
    async with site(begins(HEAD + b"half")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            chunks = answer.chunks()
            assert await anext(chunks) == b"half"
            await gate.egress.set_offline(True)
            await asyncio.wait_for(there.gone.wait(), 5)
            with pytest.raises(EgressRefused, match="went offline"):
                await anext(chunks)


async def test_what_was_read_to_its_end_was_allowed(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            assert await answer.read() == b"hello"
            await gate.egress.set_offline(True)
        assert await gate.verdicts() == ["allowed"]


async def test_an_upload_ends_too_and_its_generator_is_closed(gate: Gate) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async with site(says(), reads_bodies=False) as there:
        there.answer = begins(b"")
        host = f"a.example:{there.port}"
        await gate.allow(host)
        running = asyncio.create_task(gate.get(f"http://{host}/", body=endless()))
        await there.arrived.wait()
        await gate.egress.set_offline(True)
        with pytest.raises(EgressRefused, match="went offline"):
            await running
        assert closed.is_set()
        assert (await gate.last()).sent_bytes > 0


async def test_denying_one_leaves_the_others_alone(gate: Gate) -> None:
    rest = asyncio.Event()
    async with site(begins(HEAD + b"half", rest, b"done!!")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host, purpose="one")
        await gate.allow(host, purpose="two")
        one = asyncio.create_task(gate.get(f"http://{host}/", purpose="one"))
        two = asyncio.create_task(gate.get(f"http://{host}/", purpose="two"))
        while len(there.heard) < 2:
            there.arrived.clear()
            await there.arrived.wait()
        await gate.egress.deny("ext", host, "one")
        with pytest.raises(EgressRefused):
            await one
        rest.set()
        assert await two == b"halfdone!!"


async def test_offline_closes_idle_connections_and_online_makes_new_ones(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        await gate.get(f"http://{host}/")
        await gate.get(f"http://{host}/")
        assert (there.connections, there.gone.is_set()) == (1, False)
        await gate.egress.set_offline(True)
        await asyncio.wait_for(there.gone.wait(), 5)
        await gate.egress.set_offline(False)
        assert await gate.get(f"http://{host}/") == b"hello"
        assert there.connections == 2


async def test_one_client_is_closed_without_the_others(gate: Gate) -> None:
    rest = asyncio.Event()
    async with site(begins(HEAD + b"half", rest, b"done!!")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        await gate.egress.allow("other", host)
        other = gate.egress.client("other", ["user"])

        async def read() -> bytes:
            async with other.open("GET", f"http://{host}/", purpose="test") as answer:
                return await answer.read()

        mine, others = asyncio.create_task(gate.get(f"http://{host}/")), asyncio.create_task(read())
        while len(there.heard) < 2:
            there.arrived.clear()
            await there.arrived.wait()
        await other.close()
        with pytest.raises(EgressFailed, match="'other' was stopped"):
            await others
        with pytest.raises(EgressFailed, match="'other' was stopped"):
            await read()
        rest.set()
        assert await mine == b"halfdone!!"
        assert len(there.heard) == 2


async def test_closing_leaves_no_task_and_no_request(tmp_path: Path) -> None:
    async with site(begins(HEAD + b"half")) as there:
        before = asyncio.all_tasks()
        async with opened_gate(tmp_path) as gate:
            host = f"a.example:{there.port}"
            await gate.allow(host)
            running = asyncio.create_task(gate.get(f"http://{host}/"))
            await there.arrived.wait()
            await gate.egress.close()
            with pytest.raises(EgressFailed, match="was stopped"):
                await running
            assert await gate.verdicts() == ["allowed"]
        await asyncio.wait_for(there.gone.wait(), 5)
        left = [repr(task) for task in asyncio.all_tasks() - before]
        assert [task for task in left if "Site._serve" not in task] == []


async def test_a_caller_that_is_cancelled_leaves_nothing_behind(gate: Gate) -> None:
    async with site(begins(b"")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        running = asyncio.create_task(gate.get(f"http://{host}/"))
        await there.arrived.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(there.gone.wait(), 5)
        assert (gate.client.calls, await gate.verdicts()) == (set(), ["allowed"])


# the ledger


async def test_the_ledger_and_the_log_hold_nothing_of_what_was_said(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        if "gone" in heard.path:
            writer.close()
        elif "broken" in heard.path:
            writer.write(f"HTTP/1.1 200 OK\r\nX: {CANARY}\r\nContent-Length: 99\r\n\r\n{CANARY}".encode())
            writer.close()
        elif "junk" in heard.path:
            writer.write(f"{CANARY}\r\n\r\n".encode())
        elif "moved" in heard.path:
            await says(b"", 302, Location=f"http://b.example/{CANARY}")(heard, writer)
        else:
            await says(CANARY.encode(), X=CANARY)(heard, writer)

    said = []
    async with site(answer) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        for path in ("fine", "gone", "broken", "junk", "moved"):
            try:
                await gate.get(
                    f"http://{host}/{path}/{CANARY}?{CANARY}#{CANARY}",
                    headers={"Authorization": CANARY, "Cookie": CANARY},
                    json={CANARY: CANARY},
                )
            except (EgressRefused, EgressFailed) as error:
                said.append(error.message + repr(error))
    entries = await gate.egress.entries(100)
    assert len(there.heard) == 5 and CANARY in there.heard[0].path
    assert [entry.host for entry in reversed(entries)] == [host] * 5 + ["b.example"]
    assert len(said) == 4
    assert CANARY not in "".join(said) + repr(entries) + repr(gate.asked)
    assert CANARY not in caplog.text


async def test_the_ledger_counts_bodies_and_time(gate: Gate) -> None:
    async with site(says(b"x" * 1000)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        before = time.time()
        async with gate.client.open("put", f"http://{host}/", purpose="test", body=b"y" * 100_000) as answer:
            await answer.read()
        entry = await gate.last()
        assert (entry.method, entry.purpose, entry.sent_bytes, entry.received_bytes) == (
            "PUT",
            "test",
            100_000,
            1000,
        )
        assert before <= entry.at <= time.time()
        assert 0 < entry.duration_s <= time.time() - before


async def test_an_answer_that_is_left_is_noted_with_what_was_read(gate: Gate) -> None:
    async with site(begins(HEAD + b"half")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            assert await anext(answer.chunks()) == b"half"
        await asyncio.wait_for(there.gone.wait(), 5)
        entry = await gate.last()
        assert (entry.verdict, entry.status, entry.received_bytes) == ("allowed", 200, 4)
        with pytest.raises(EgressFailed):
            await answer.read()


async def test_entries_come_newest_first_by_pages_and_by_extension(gate: Gate) -> None:
    other = gate.egress.client("other", ["user"])
    for number in range(5):
        with pytest.raises(EgressRefused):
            await gate.get(f"http://h{number}.example/")
    with pytest.raises(EgressRefused):
        async with other.open("GET", "http://h5.example/", purpose="test"):
            pass
    hosts = [entry.host for entry in await gate.egress.entries(100)]
    assert hosts == [f"h{number}.example" for number in (5, 4, 3, 2, 1, 0)]
    page = await gate.egress.entries(2, extension="ext")
    assert [entry.host for entry in page] == ["h4.example", "h3.example"]
    page = await gate.egress.entries(2, before_id=page[-1].id, extension="ext")
    assert [entry.host for entry in page] == ["h2.example", "h1.example"]
    assert len(await gate.egress.entries(9, extension="other")) == 1


async def test_a_ledger_that_cannot_be_written_costs_a_warning_and_no_request(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        await gate.sql("ALTER TABLE kernel__ledger RENAME TO elsewhere")
        assert await gate.get(f"http://{host}/{CANARY}") == b"hello"
        await gate.egress.ledger.settle()
        assert "the egress ledger lacks 1 entries" in caplog.text
        assert CANARY not in caplog.text
        await gate.sql("ALTER TABLE elsewhere RENAME TO kernel__ledger")
        assert await gate.get(f"http://{host}/") == b"hello"
        assert await gate.verdicts() == ["allowed"]


async def test_the_ledger_is_kept_for_90_days_and_100_000_rows(gate: Gate) -> None:
    def row(at: float) -> dict[str, Any]:
        kept = {"at": at, "extension": "ext", "purpose": "test", "host": "a.example", "method": "GET"}
        return kept | {"verdict": "allowed", "sent_bytes": 0, "received_bytes": 0, "duration_s": 0.0}

    now = time.time()
    rows = [row(now - KEPT_S - 60)] * 5 + [row(now - KEPT_S + 60)] + [row(now)] * (KEPT_ROWS + 9)
    await gate.database.write(lambda connection: connection.execute(insert(schema.ledger), rows) and None)
    await gate.egress.load()
    entries = await gate.egress.entries(KEPT_ROWS + 99)
    assert len(entries) == KEPT_ROWS
    assert min(entry.at for entry in entries) == now


async def test_old_rows_go_while_it_runs_too(gate: Gate) -> None:
    await gate.sql(
        "INSERT INTO kernel__ledger (at, extension, purpose, host, method, verdict, sent_bytes, received_bytes, "
        "duration_s) VALUES (1, 'old', '', '', '', 'allowed', 0, 0, 0)"
    )
    for _ in range(1000):
        with pytest.raises(EgressRefused):
            await gate.get("http://a.example/")
    entries = await gate.egress.entries(2000)
    assert (len(entries), {entry.extension for entry in entries}) == (1000, {"ext"})


async def test_the_ledger_s_own_task_belongs_to_no_extension(gate: Gate) -> None:
    loop = asyncio.get_running_loop()
    custody.watch(loop)
    try:
        with custody.acting("ext"):
            with pytest.raises(EgressRefused):
                await gate.get("http://a.example/")
        assert any(task.get_name() == "egress ledger" for task in asyncio.all_tasks())
        assert custody.tasks_of("ext") == []
        assert await gate.verdicts() == ["ungranted"]
    finally:
        loop.set_task_factory(None)


def test_nothing_heavy_is_imported_before_the_first_request() -> None:
    code = "import sys, allod.kernel.egress; print([n for n in ('aiohttp', 'yarl') if n in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "[]"
