"""What an extension holds of the egress gate: its HTTP client, and each of its requests while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from allod.kernel.egress_hosts import USER, Malformed, Target, could_reach, is_declared, is_local
from allod.kernel.egress_request import Request, request_of
from allod.sdk.errors import AllodError, EgressFailed
from allod.sdk.http import HttpAnswer

if TYPE_CHECKING:
    from allod.kernel.egress import Egress, Grant
    from allod.kernel.egress_http import Connections
    from allod.kernel.egress_ledger import Hop

LONGEST_PURPOSE = 100


class Call:
    """One request of an extension with all its redirects, from `open` until its answer is left."""

    def __init__(self, extension: str, purpose: str, patterns: Sequence[str]) -> None:
        self.extension = extension
        self.purpose = purpose
        self.patterns = patterns
        self.grants: list[
            Grant
        ] = []  # those by which it has passed; one for once holds for its redirects too
        self.is_secure = False  # it was sent by TLS, and must not go on without
        self.hop: Hop | None = None
        self.stop: Callable[[], object] | None = None
        self.error: AllodError | None = None

    def may_ask(self, target: Target) -> bool:
        """Whether the extension's manifest declares this host, or all that the user allows it."""
        return USER in self.patterns or is_declared(target.name, target.port, self.patterns)

    def end(self, error: AllodError, verdict: str = "") -> None:
        """End it from outside: whoever reads its answer gets `error`."""
        if self.error is not None:
            return
        self.error = error
        if self.hop is not None and verdict and self.hop.duration_s is None:
            self.hop.verdict = verdict
        if self.stop is not None:
            self.stop()

    def check(self) -> None:
        """Raise what it was ended with."""
        if self.error is not None:
            raise self.error


class Client:
    """Implements `sdk.http.HttpClient` for one extension. `patterns` are what it declares, in normal form."""

    def __init__(self, gate: Egress, extension: str, patterns: Sequence[str]) -> None:
        self.calls: set[Call] = set()
        """Those that run."""
        self._gate = gate
        self.extension = extension
        self._patterns = tuple(patterns)
        self._connections: Connections | None = None
        self._is_closed = False

    def could_reach(self, host: str) -> bool:
        """Whether its manifest declares this host, on some port."""
        return could_reach(host, self._patterns)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        timeout_s: float = 60,
    ) -> AsyncIterator[HttpAnswer]:
        """Send a request if it may pass, and give its answer; see sdk/http.py. A generator as body is closed."""
        wanted: Request | Malformed
        try:
            purpose, is_purpose = (purpose, True) if is_word(purpose) else ("", False)
            wanted = request_of(method, url, headers or {}, json, body)
            if not is_purpose:
                wanted = Malformed("it does not say what for in a word or two")
        except Malformed as error:
            wanted = error
        call = Call(self.extension, purpose, self._patterns)
        self.calls.add(call)
        try:
            connections = await self._reach_out()
            answer = await connections.exchange(call, wanted, timeout_s)
            try:
                yield answer
            finally:
                await answer.leave()
        finally:
            self.calls.discard(call)

    async def hang_up(self) -> None:
        """Close all connections, those of requests that run included. Later requests make new ones."""
        if self._connections is not None:
            await self._connections.close()

    async def close(self) -> None:
        """End all requests, and let no other one pass: its extension stops."""
        self._is_closed = True
        for call in list(self.calls):
            call.end(self._stopped())
        self._gate.forget(self)
        await self.hang_up()

    async def _reach_out(self) -> Connections:
        if self._connections is None:
            # in a thread: aiohttp takes long to import, and the system's certificates are read from the disk
            made = await asyncio.to_thread(_connections, self._gate, self._must_be_public)
            self._connections = self._connections or made
        if self._is_closed:
            raise self._stopped()
        return self._connections

    def _must_be_public(self, name: str, port: int) -> bool:
        """Whether a host was declared by a name of the internet, which must not lead home (DNS rebinding)."""
        return not is_local(name) and is_declared(name, port, self._patterns)

    def _stopped(self) -> EgressFailed:
        return EgressFailed(f"{self.extension!r} was stopped, and its requests with it.")


def is_word(purpose: str) -> bool:
    """Whether this can be shown to a person as what a request is for."""
    return 0 < len(purpose) <= LONGEST_PURPOSE and purpose.isprintable()


def _connections(gate: Egress, must_be_public: Callable[[str, int], bool]) -> Connections:
    from allod.kernel.egress_http import Connections

    return Connections(gate, must_be_public)
