"""Sends what the gate has let pass, and follows redirects, each of which the gate judges anew.

This is all that knows aiohttp, which takes a fifth of a second to import: so this module is imported when the first
request is made. It uses no proxy, no netrc and no cookies, and connects to exactly the addresses that it has judged.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError

from allod import __version__
from allod.kernel.egress_hosts import Malformed, is_public
from allod.kernel.egress_ledger import Hop
from allod.kernel.egress_request import Request
from allod.sdk.errors import EgressFailed, EgressRefused

if TYPE_CHECKING:
    from allod.kernel.egress import Egress, Resolve
    from allod.kernel.egress_client import Call

REDIRECTS = 10
"""How many are followed."""

_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 1 << 16
_TRY_AGAIN = "Try again later."


class Connections:
    """One extension's connections. `must_be_public` says of a host's name whether it may not lead home."""

    def __init__(self, gate: Egress, must_be_public: Callable[[str, int], bool]) -> None:
        self._gate = gate
        self._resolver = _JudgingResolver(gate.resolve, must_be_public)
        self._tls = ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, call: Call, wanted: Request | Malformed, timeout_s: float) -> Answer:
        """The answer to a request, after all redirects. Raises EgressRefused and EgressFailed."""
        for _ in range(REDIRECTS + 1):
            answer = await self._send_judged(call, wanted, timeout_s)
            location = answer.headers.get("location", "") if answer.status in _REDIRECTS else ""
            if not location:
                return answer
            await answer.leave()
            try:
                wanted = answer.request.redirected(answer.status, location)
            except Malformed as error:
                wanted = error
        raise EgressFailed(
            f"{answer.request.target.host} redirected more than {REDIRECTS} times.", fix=_TRY_AGAIN
        )

    async def close(self) -> None:
        """Close all connections, at once."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver, use_dns_cache=False, ssl=self._tls, limit=0
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"allod/{__version__}"},
            trust_env=False,
        )

    async def _send_judged(self, call: Call, wanted: Request | Malformed, timeout_s: float) -> Answer:
        hop = call.hop = Hop(
            call.extension, call.purpose, wanted.method if isinstance(wanted, Request) else ""
        )
        try:
            request = await self._gate.admit(call, hop, wanted)
            upload = _Upload(request.body, call, hop, timeout_s)
            try:
                response = await self._send(call, request, upload, timeout_s)
            except BaseException:
                await upload.close()
                raise
        except BaseException:
            self._gate.ledger.note(hop)
            raise
        hop.status = response.status
        call.stop = response.close
        return Answer(self._gate, call, hop, request, response, upload, timeout_s)

    async def _send(
        self, call: Call, request: Request, upload: _Upload, timeout_s: float
    ) -> aiohttp.ClientResponse:
        """Wait for the head of the answer."""
        if self._session is None:
            self._session = self._new_session()
        body = upload if request.body is not None else None
        headers = {**request.headers, **upload.headers}
        try:
            with _in_our_words(call, request.target.host, timeout_s):
                async with asyncio.timeout(None) as clock:
                    call.stop = lambda: clock.reschedule(asyncio.get_running_loop().time())
                    upload.clock = clock
                    return await self._session.request(
                        request.method,
                        request.target.url,
                        headers=headers,
                        data=body,
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(connect=timeout_s, sock_read=timeout_s),
                    )
        except EgressRefused:
            if call.error is None and call.hop is not None:  # the resolver's word
                call.hop.verdict = "private_address"
            raise
        finally:
            upload.clock = None
            call.stop = None


class Answer:
    """Implements `sdk.http.HttpAnswer`. Its body is read once."""

    def __init__(
        self,
        gate: Egress,
        call: Call,
        hop: Hop,
        request: Request,
        response: aiohttp.ClientResponse,
        upload: _Upload,
        timeout_s: float,
    ) -> None:
        self._gate = gate
        self._call = call
        self._hop = hop
        self._response = response
        self._upload = upload
        self._timeout_s = timeout_s
        self.request = request
        self.status = response.status
        self.url = str(request.target.url)
        self.headers = _plain(response.headers)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, unpacked."""
        while chunk := await self._next():
            yield chunk

    async def read(self, limit_bytes: int = 16 << 20) -> bytes:
        """The whole body."""
        body = bytearray()
        while chunk := await self._next():
            body += chunk
            if len(body) > limit_bytes:
                raise EgressFailed(
                    f"The answer of {self.request.target.host} is larger than {limit_bytes} bytes."
                )
        return bytes(body)

    async def leave(self) -> None:
        """Note what came of it, and close the connection unless all was read."""
        self._gate.ledger.note(self._hop)
        self._response.close()
        self._call.stop = None
        await self._upload.close()

    async def _next(self) -> bytes:
        """The next piece of the body; empty at its end."""
        self._call.check()
        with _in_our_words(self._call, self.request.target.host, self._timeout_s):
            chunk = await self._response.content.readany()
        self._hop.received_bytes += len(chunk)
        if not chunk:
            self._hop.end()
        return chunk


class _Upload:
    """A request's body on its way. Counts what was sent; the clock runs while the other side does not take it."""

    def __init__(
        self, body: bytes | AsyncIterator[bytes] | None, call: Call, hop: Hop, timeout_s: float
    ) -> None:
        self._source = _pieces(body) if body is None or isinstance(body, bytes) else body
        self._call = call
        self._hop = hop
        self._timeout_s = timeout_s
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.clock: asyncio.Timeout | None = None
        self.headers = {"content-length": str(len(body))} if isinstance(body, bytes) else {}

    def __aiter__(self) -> _Upload:
        return self

    async def __anext__(self) -> bytes:
        self._run_clock(False)  # the time that our side takes to say more is not the other's
        self._is_idle.clear()
        try:
            piece = await anext(self._source)
        finally:
            self._is_idle.set()
            self._run_clock(True)
        self._hop.sent_bytes += len(piece)
        return piece

    def _run_clock(self, runs: bool) -> None:
        if self.clock is not None and self._call.error is None:
            self.clock.reschedule(asyncio.get_running_loop().time() + self._timeout_s if runs else None)

    async def close(self) -> None:
        """Let go of the source, once aiohttp's task that reads it has."""
        await self._is_idle.wait()
        aclose = getattr(self._source, "aclose", None)
        if aclose is not None:
            await aclose()


class _JudgingResolver(AbstractResolver):
    """Hands out addresses only if all of a host's are where they may be; aiohttp connects to these and no others."""

    def __init__(self, resolve: Resolve, must_be_public: Callable[[str, int], bool]) -> None:
        self._resolve = resolve
        self._must_be_public = must_be_public

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Called by aiohttp for each new connection, unless `host` is an address."""
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError(None, "no address")
        if self._must_be_public(host, port) and not all(map(is_public, addresses)):
            raise EgressRefused(
                f"{host} leads to this machine or into a private network, and not into the internet.",
                fix="A page may be trying to reach what is yours by a name of its own. Look at your name server.",
            )
        return [
            ResolveResult(hostname=host, host=address, port=port, family=0, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        """Called by aiohttp."""


async def _pieces(body: bytes | None) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body or b""), _PIECE):
        yield (body or b"")[start : start + _PIECE]


def _plain(headers: Any) -> Mapping[str, str]:
    """Headers by small names, without what no longer fits the unpacked body."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    if "content-encoding" in found:
        found.pop("content-encoding")
        found.pop("content-length", None)
    return found


@contextmanager
def _in_our_words(call: Call, host: str, timeout_s: float) -> Iterator[None]:
    """Say what went wrong; if the call was ended from outside, why. aiohttp's own words may hold the whole address."""
    try:
        yield
    except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
        call.check()
        raise EgressFailed(_reason(error, host, timeout_s), fix=_TRY_AGAIN) from None


def _reason(error: Exception, host: str, timeout_s: float) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"The name {host} could not be found."
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or "it was not accepted"
            return f"{host} did not prove who it is by its TLS certificate: {why}."
        case aiohttp.ClientConnectorSSLError():
            return f"A TLS connection to {host} could not be made."
        case aiohttp.ClientConnectorError():
            why = os.strerror(error.os_error.errno) if error.os_error.errno else "no way there"
            return f"{host} could not be reached: {why}."
        case TimeoutError():
            return f"{host} sent and took nothing for {timeout_s:g} s."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return f"{host} closed the connection."
        case aiohttp.ClientPayloadError():
            return f"The answer of {host} broke off, or could not be unpacked."
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return f"{host} did not answer in proper HTTP."
        case _:
            return f"The exchange with {host} broke off ({type(error).__name__})."
