"""HTTP through the gate: redirects judged anew, names that lead home, TLS, bodies both ways, and what can go wrong."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from allod import __version__
from allod.kernel.egress import Egress
from allod.kernel.events import EventBus
from allod.sdk.errors import EgressFailed, EgressRefused
from allod.sdk.http import HttpClient
from tests.unit.kernel.gate import Gate, opened_gate
from tests.unit.kernel.site import Answering, Heard, Site, begins, redirects, says, site

CANARY = "sesame"


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    async with opened_gate(tmp_path) as gate:
        yield gate


async def send(gate: Gate, method: str, url: str, **more: Any) -> bytes:
    async with gate.client.open(method, url, **{"purpose": "test", **more}) as answer:
        return await answer.read()


# redirects


async def test_a_redirect_to_another_host_is_judged_as_if_it_were_new(gate: Gate) -> None:
    async with site(says(b"there")) as there, site(says()) as here:
        a, b = f"a.example:{here.port}", f"b.example:{there.port}"
        here.answer = says(b"", 302, Location=f"http://{b}/secret?path")
        await gate.allow(a)
        with pytest.raises(EgressRefused) as told:
            await gate.get(f"http://{a}/")
        assert told.value.fix.endswith(f"allod egress allow ext {b}")
        assert there.connections == 0
        assert await gate.verdicts() == ["allowed", "ungranted"]
        await asyncio.sleep(0)
        assert [asked.host for asked in gate.asked] == [b]
        await gate.allow(b)
        assert await gate.get(f"http://{a}/") == b"there"
        hosts = [(entry.host, entry.status) for entry in await gate.egress.entries(2)]
        assert hosts == [(b, 200), (a, 302)]


async def test_the_answer_says_where_it_came_from_at_last(gate: Gate) -> None:
    async with site(redirects("/b?c#d")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/a", purpose="test") as answer:
            assert answer.url == f"http://{host}/b?c"
            assert (answer.status, answer.headers["content-length"]) == (200, "5")


OWN = {
    "authorization": "Bearer x",
    "cookie": "a=b",
    "proxy-authorization": "y",
    "x-api-key": "z",
    "referer": "r",
}
OPEN = {"accept": "text/plain", "range": "bytes=0-", "user-agent": "mine", "if-none-match": "e"}


async def test_another_origin_learns_nothing_of_who_asks(gate: Gate) -> None:
    async with site(says()) as there, site(says()) as here:
        a, b = f"a.example:{here.port}", f"a.example:{there.port}"
        here.answer = says(b"", 307, Location=f"http://{b}/")
        await gate.allow(a, b)
        await gate.get(f"http://{a}/", headers=OWN | OPEN)
        first, second = here.heard[0].headers, there.heard[0].headers
        assert {name: first.get(name) for name in OWN | OPEN} == OWN | OPEN
        assert {name: second[name] for name in OPEN} == OPEN
        assert set(second) & set(OWN) == set()
        assert second["host"] == b


async def test_the_same_origin_keeps_them(gate: Gate) -> None:
    async with site(redirects("/b")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        await gate.get(f"http://{host}/", headers=OWN)
        assert {name: there.heard[1].headers.get(name) for name in OWN} == OWN


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        *((301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (303, "PUT", "GET")),
        *((301, "PUT", "PUT"), (302, "PATCH", "PATCH"), (307, "POST", "POST"), (308, "POST", "POST")),
        *((302, "HEAD", "HEAD"), (303, "HEAD", "HEAD"), (303, "GET", "GET")),
    ],
)
async def test_methods_and_bodies_after_a_redirect(
    gate: Gate, status: int, method: str, becomes: str
) -> None:
    async with site(redirects("/b", status)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        body = {} if method in ("GET", "HEAD") else {"json": {"a": 1}}
        await send(gate, method, f"http://{host}/a", **body)
        first, second = there.heard
        assert (first.method, second.method) == (method, becomes)
        kept = bool(body) and becomes != "GET"
        assert second.body == (b'{"a":1}' if kept else b"")
        assert ("content-type" in second.headers) == kept


async def test_a_streamed_body_cannot_be_sent_twice(gate: Gate) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"cd"

    async with site(redirects("/b", 307)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressFailed, match="streamed") as told:
            await send(gate, "POST", f"http://{host}/", body=stream())
        assert (there.heard[0].body, len(there.heard)) == (b"abcd", 1)
        assert "bytes" in told.value.fix
    async with site(redirects("/b", 303)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await send(gate, "POST", f"http://{host}/", body=stream()) == b"hello"


async def test_ten_redirects_are_followed_and_no_more(gate: Gate) -> None:
    async with site(redirects("/b", first=10)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await gate.get(f"http://{host}/") == b"hello"
        there.answer = redirects("/b", first=11)
        with pytest.raises(EgressFailed, match="more than 10 times"):
            await gate.get(f"http://{host}/")
        assert len(there.heard) == 22


@pytest.mark.parametrize(
    "location",
    [
        f"ftp://a.example/{CANARY}",
        f"http://x:{CANARY}@a.example/",
        f"file:///{CANARY}",
        f"http://127.1/{CANARY}",
    ],
)
async def test_a_redirect_to_what_is_no_address_of_the_web_is_refused(gate: Gate, location: str) -> None:
    async with site(redirects(location)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressRefused) as told:
            await gate.get(f"http://{host}/")
        assert await gate.verdicts() == ["allowed", "malformed"]
        assert CANARY not in told.value.message


async def test_a_redirect_without_a_place_is_an_answer_like_any_other(gate: Gate) -> None:
    async with site(says(b"where?", 302)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await gate.get(f"http://{host}/") == b"where?"


async def test_signed_addresses_arrive_as_they_were_signed(gate: Gate) -> None:
    signed = "/%7Ea%2fb%3B+c?s=%2B%7e%20&t=a/b:c"
    async with site(redirects(signed)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        await gate.get(f"http://{host}{signed}")
        assert [heard.path for heard in there.heard] == [signed, signed]


# names that lead home


@pytest.mark.parametrize("declared", ["a.example.org", "*.example.org"])
@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["::1"], ["10.0.0.1"], ["169.254.169.254"], ["0.0.0.0"], ["::ffff:127.0.0.1"]),
        *(["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"]),
    ],
    ids=str,
)
async def test_a_public_name_must_not_lead_home(
    tmp_path: Path, declared: str, addresses: Sequence[str]
) -> None:
    async with opened_gate(tmp_path, [declared, "user"]) as gate, site(says()) as there:
        gate.addresses["a.example.org"] = addresses
        await gate.allow(f"a.example.org:{there.port}")
        with pytest.raises(EgressRefused, match="private network"):
            await gate.get(f"http://a.example.org:{there.port}/")
        assert (there.connections, await gate.verdicts()) == (0, ["private_address"])


async def test_only_the_addresses_that_were_judged_are_connected_to(tmp_path: Path) -> None:
    async with opened_gate(tmp_path, ["a.example.org"]) as gate, site(says()) as there:
        looked_up: list[str] = []

        async def rebinding(name: str, port: int) -> Sequence[str]:
            looked_up.append(name)
            return ["8.8.8.8"] if len(looked_up) == 1 else ["127.0.0.1"]

        egress = Egress(gate.database, EventBus().of("test"), resolve=rebinding)
        await egress.allow("ext", f"a.example.org:{there.port}")
        client = egress.client("ext", ["a.example.org"])
        for kind in (EgressFailed, EgressRefused):  # no way to the first, a word against the second
            with pytest.raises(kind):
                async with client.open("GET", f"http://a.example.org:{there.port}/", purpose="test"):
                    pass
        await egress.close()
        assert (there.connections, len(looked_up)) == (0, 2)


async def test_a_redirect_that_leads_home_is_refused(tmp_path: Path) -> None:
    async with opened_gate(tmp_path, ["b.example", "user"]) as gate, site(says()) as home:
        async with site(redirects(f"http://b.example:{home.port}/")) as there:
            await gate.allow(f"a.example:{there.port}", f"b.example:{home.port}")
            with pytest.raises(EgressRefused, match="private network"):
                await gate.get(f"http://a.example:{there.port}/")
        assert home.connections == 0


async def test_what_the_user_named_may_lie_at_home(gate: Gate) -> None:
    gate.addresses["nas.example"] = ["127.0.0.1"]
    async with site(says()) as there:
        await gate.allow(f"nas.example:{there.port}")
        assert await gate.get(f"http://nas.example:{there.port}/") == b"hello"
        assert gate.looked_up == ["nas.example"]


async def test_the_system_s_own_way_to_look_up_names(tmp_path: Path) -> None:
    async with opened_gate(tmp_path) as gate, site(says()) as there:
        egress = Egress(gate.database, EventBus().of("test"))
        client: HttpClient = egress.client("ext", ["localhost", "nowhere.example"])
        await egress.allow("ext", f"localhost:{there.port}")
        await egress.allow("ext", "nowhere.example")
        async with client.open("GET", f"http://localhost:{there.port}/", purpose="test") as answer:
            assert await answer.read() == b"hello"
        with pytest.raises(EgressFailed, match=r"nowhere\.example could not be found"):
            async with client.open("GET", "http://nowhere.example/", purpose="test"):
                pass
        await egress.close()


# TLS


class Authority:
    """Signs certificates for names. Its own is in `file`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A test's own")])
        made = self._begun(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.file.write_bytes(self._signed(made))

    def _begun(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        begun = x509.CertificateBuilder().subject_name(name).issuer_name(self._name)
        begun = begun.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return begun.not_valid_before(now - day).not_valid_after(now + day)

    def _signed(self, begun: x509.CertificateBuilder) -> bytes:
        return begun.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(self, name: str) -> ssl.SSLContext:
        """What a server of this name needs."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        file = self.folder / "server.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(secret + self._signed(self._begun(own, key).add_extension(names, critical=False)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that this process trusts."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


async def test_tls_is_verified_with_the_system_s_certificates(
    gate: Gate, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(says(b"sealed"), tls=authority.server("a.example")) as there:
        for name in ("a.example", "b.example", "127.0.0.1"):
            await gate.allow(f"{name}:{there.port}")
        assert await gate.get(f"https://a.example:{there.port}/") == b"sealed"
        assert await gate.get(f"https://127.0.0.1:{there.port}/") == b"sealed"
        heard = len(there.heard)
        with pytest.raises(EgressFailed, match=r"b\.example:\d+ did not prove who it is .*[Hh]ostname"):
            await gate.get(f"https://b.example:{there.port}/{CANARY}")
        monkeypatch.delenv("SSL_CERT_FILE")
        await gate.egress.allow("other", f"a.example:{there.port}")
        with pytest.raises(EgressFailed, match="did not prove who it is"):
            async with gate.egress.client("other", ["user"]).open(
                "GET", f"https://a.example:{there.port}/", purpose="test"
            ):
                pass
        assert len(there.heard) == heard


async def test_a_server_without_tls_is_told_nothing(gate: Gate, authority: Authority) -> None:
    async with site(begins(b"")) as there:
        there.answer = says()
        await gate.allow(f"a.example:{there.port}")
        with pytest.raises(EgressFailed, match=r"a\.example:\d+"):
            await gate.get(f"https://a.example:{there.port}/", timeout_s=1)
        assert there.heard == []


async def test_from_https_to_http_is_no_way(gate: Gate, authority: Authority) -> None:
    async with site(says()) as plain:
        to_plain = redirects(f"http://a.example:{plain.port}/")
        async with site(to_plain, tls=authority.server("a.example")) as there:
            await gate.allow(f"a.example:{there.port}", f"a.example:{plain.port}")
            with pytest.raises(EgressRefused, match="from https"):
                await gate.get(f"https://a.example:{there.port}/")
        assert (plain.connections, await gate.verdicts()) == (0, ["allowed", "downgrade"])


async def test_from_http_to_https_is_fine_and_a_new_origin(gate: Gate, authority: Authority) -> None:
    async with site(says(b"sealed"), tls=authority.server("a.example")) as there:
        async with site(redirects(f"https://a.example:{there.port}/")) as plain:
            await gate.allow(f"a.example:{there.port}", f"a.example:{plain.port}")
            got = await gate.get(f"http://a.example:{plain.port}/", headers=OWN)
        assert got == b"sealed"
        assert set(there.heard[0].headers) & set(OWN) == set()


# what goes out and comes in


async def test_no_proxy_no_netrc_no_cookie_and_a_plain_name(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(says()) as proxy, site(says(b"hello", Set_Cookie="a=b; Path=/")) as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        netrc = tmp_path / "netrc"
        netrc.write_text("machine a.example login me password sesame\ndefault login me password sesame\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await gate.get(f"http://{host}/") == b"hello"
        assert await gate.get(f"http://{host}/") == b"hello"
        assert proxy.connections == 0
        for heard in there.heard:
            assert set(heard.headers) == {"host", "user-agent", "accept", "accept-encoding"}
            assert heard.headers["user-agent"] == f"allod/{__version__}"


async def test_packed_bodies_arrive_unpacked(gate: Gate) -> None:
    text = b"word " * 10_000
    async with site(says(gzip.compress(text), Content_Encoding="gzip", X_One="1")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            assert await answer.read() == text
            assert "content-encoding" not in answer.headers
            assert "content-length" not in answer.headers
            assert answer.headers["x-one"] == "1"


async def test_bodies_of_all_kinds_go_out(gate: Gate) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for piece in (b"a" * 70_000, b"", b"b"):
            yield piece

    large = bytes(range(256)) * 4096
    async with site(says()) as there:
        url = f"http://a.example:{there.port}/"
        await gate.allow(f"a.example:{there.port}")
        await send(gate, "POST", url, body=large)
        await send(gate, "POST", url, json={"ä": [1, None]}, headers={"Content-Type": "application/x"})
        await send(gate, "POST", url, body=stream())
        await send(gate, "PUT", url, body=stream(), headers={"content-length": "70001"})
        await send(gate, "POST", url, body=b"")
        bodies = [heard.body for heard in there.heard]
        assert bodies == [large, '{"ä":[1,null]}'.encode(), b"a" * 70_000 + b"b", b"a" * 70_000 + b"b", b""]
        lengths = [heard.headers.get("content-length") for heard in there.heard]
        assert lengths == [str(len(large)), "15", None, "70001", "0"]
        assert there.heard[1].headers["content-type"] == "application/x"
        sent = [entry.sent_bytes for entry in reversed(await gate.egress.entries(9))]
        assert sent == [len(large), 15, 70_001, 70_001, 0]


async def test_head_and_empty_answers(gate: Gate) -> None:
    async with site(says(b"x" * 9)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("HEAD", f"http://{host}/", purpose="test") as answer:
            assert (await answer.read(), answer.headers["content-length"]) == (b"", "9")
        there.answer = begins(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await gate.get(f"http://{host}/") == b""


async def test_chunks_come_as_they_arrive(gate: Gate) -> None:
    rest = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    async with site(begins(head, rest, b"3\r\ntwo\r\n0\r\n\r\n")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            chunks = answer.chunks()
            assert await anext(chunks) == b"one"
            rest.set()
            assert [chunk async for chunk in chunks] == [b"two"]


# what can go wrong


async def test_an_answer_larger_than_the_limit_is_not_read_on(gate: Gate) -> None:
    async with site(says(gzip.compress(bytes(1 << 20)), Content_Encoding="gzip")) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("GET", f"http://{host}/", purpose="test") as answer:
            with pytest.raises(EgressFailed, match="larger than 1000 bytes"):
                await answer.read(1000)


OK = b"HTTP/1.1 200 OK\r\n"
PACKED = OK + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"


def breaks(head: bytes) -> Answering:
    """Writes this and hangs up."""
    done = asyncio.Event()
    done.set()
    return begins(head, done)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed the connection"),
        (OK + b"Content-Length: 9\r\n\r\nhalf", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nsesame\r\n", "broke off|proper HTTP"),
        (PACKED, "unpacked|proper HTTP"),
        (b"sesame\r\n\r\n", "proper HTTP"),
        (b"HTTP/1.1 abc sesame\r\n\r\n", "proper HTTP"),
    ],
    ids=str,
)
async def test_broken_answers(gate: Gate, said: bytes, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with site(breaks(said)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressFailed, match=reason) as told:
            await send(gate, "POST", f"http://{host}/{CANARY}")
        assert told.value.detail.startswith(("The answer of " + host, host))
        assert CANARY not in told.value.message + caplog.text
        assert told.value.__cause__ is None
        assert (await gate.last()).verdict == "allowed"


async def test_nobody_there(gate: Gate) -> None:
    async with site(says()) as there:
        pass
    await gate.allow(f"a.example:{there.port}")
    with pytest.raises(EgressFailed, match="refused"):
        await gate.get(f"http://a.example:{there.port}/")
    gate.addresses["b.example"] = []
    await gate.allow("b.example")
    with pytest.raises(EgressFailed, match="could not be found"):
        await gate.get("http://b.example/")
    assert [entry.status for entry in await gate.egress.entries(2)] == [None, None]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", OK + b"Content-Length: 9\r\n\r\nhalf"], ids=str)
async def test_silence_ends_by_the_clock(gate: Gate, said: bytes) -> None:
    async with site(begins(said)) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressFailed, match=r"nothing for 0\.2 s"):
            await gate.get(f"http://{host}/", timeout_s=0.2)
        await asyncio.wait_for(there.gone.wait(), 5)


async def test_a_name_that_takes_too_long_ends_by_the_clock(gate: Gate) -> None:
    async def never(name: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    egress = Egress(gate.database, EventBus().of("test"), resolve=never)
    await egress.allow("ext", "a.example")
    with pytest.raises(EgressFailed, match=r"nothing for 0\.2 s"):
        async with egress.client("ext", ["user"]).open(
            "GET", "http://a.example/", purpose="test", timeout_s=0.2
        ):
            pass
    await egress.close()


async def test_an_upload_that_nobody_takes_ends_by_the_clock(gate: Gate) -> None:
    async with site(begins(b""), reads_bodies=False) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressFailed, match=r"nothing for 0\.3 s"):
            await send(gate, "PUT", f"http://{host}/", body=bytes(64 << 20), timeout_s=0.3)
        assert 0 < (await gate.last()).sent_bytes < 64 << 20


async def test_slow_but_steady_is_no_silence_either_way(gate: Gate) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.3)  # longer than the limit: our own pauses do not count
            yield b"x"

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 5\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0.1)
            writer.write(b"y")

    async with site(answer) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await send(gate, "PUT", f"http://{host}/", body=trickle(), timeout_s=0.25) == b"yyyyy"
        assert there.heard[0].body == b"xxxx"


async def test_a_body_that_breaks_off_on_our_side(gate: Gate) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError(CANARY)

    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        with pytest.raises(EgressFailed) as told:
            await send(gate, "PUT", f"http://{host}/", body=broken())
        assert CANARY not in told.value.message
        await asyncio.wait_for(there.gone.wait(), 5)


async def test_an_answer_before_the_upload_ended_is_an_answer(gate: Gate) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65536)
        finally:
            closed.set()

    async with site(says(b"too much", 413), reads_bodies=False) as there:
        there.answer = begins(b"HTTP/1.1 413 Too Much\r\nContent-Length: 8\r\n\r\ntoo much")
        host = f"a.example:{there.port}"
        await gate.allow(host)
        async with gate.client.open("PUT", f"http://{host}/", purpose="test", body=endless()) as answer:
            assert answer.status == 413
            assert await answer.read() == b"too much"
        assert closed.is_set()


async def test_a_connection_that_went_stale_is_replaced(gate: Gate) -> None:
    async with site(says()) as there:
        host = f"a.example:{there.port}"
        await gate.allow(host)
        assert await gate.get(f"http://{host}/") == b"hello"
        hang_up(there)
        assert await gate.get(f"http://{host}/") == b"hello"
        assert there.connections == 2


def hang_up(there: Site) -> None:
    there.close()
