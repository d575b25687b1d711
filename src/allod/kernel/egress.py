"""The gate to the world: what the user has allowed, the offline switch, and who is out there now.

Nothing passes but what an extension's manifest declares and the user has granted, loopback included. Decisions are made
from memory; changes are in the store before they count. Within the server's process an extension's name is a label, not
a wall: this binds those who keep to the contract.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import orjson
from sqlalchemy import Connection, delete, insert, select

from allod.kernel import schema
from allod.kernel.egress_client import LONGEST_PURPOSE, Call, Client, is_word
from allod.kernel.egress_hosts import Malformed, Target, normal_host, normal_pattern
from allod.kernel.egress_ledger import Entry, Hop, Ledger
from allod.kernel.egress_request import Request
from allod.kernel.storage import Database
from allod.sdk.errors import BadRequest, EgressRefused, ExtensionFailed, NotFound
from allod.sdk.events import EgressAsked, Events

ANY = "*"
"""The purpose of a grant for all purposes."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a name, for a port. Raises OSError."""

_SWITCH = "egress.offline"
_GO_ONLINE = "allod egress offline off"


@dataclass(frozen=True, slots=True)
class Grant:
    """The user's word that an extension may reach a host, for a purpose or for any; `once` is for one request.

    `host` is in normal form, as egress_hosts.py says: without a port, it is the scheme's own port only.
    """

    id: str
    extension: str
    purpose: str
    host: str
    once: bool
    created_at: float


class Egress:
    """The gate of one server. `resolve` looks names up; the system's own way if it is left out."""

    def __init__(self, database: Database, events: Events, *, resolve: Resolve | None = None) -> None:
        self.ledger = Ledger(database)
        self.resolve = resolve or _looked_up
        self._database = database
        self._events = events
        self._grants: dict[str, Grant] = {}
        self._offline = False
        self._clients: set[Client] = set()
        self._one_change = asyncio.Lock()

    async def load(self) -> None:
        """Read what the user has allowed; until then, nothing is. Old rows of the ledger go."""
        await self.ledger.prune()
        switch = select(schema.facts.c.value).where(schema.facts.c.name == _SWITCH)
        query = select(schema.grants).order_by(schema.grants.c.created_at)

        def work(connection: Connection) -> tuple[bool, list[Grant]]:
            found = connection.scalar(switch)
            grants = [Grant(**row) for row in connection.execute(query).mappings()]
            return orjson.loads(found) if found else False, grants

        async with self._one_change:
            self._offline, grants = await self._database.read(work)
            self._grants = {grant.id: grant for grant in grants}

    def client(self, extension: str, declared: Sequence[str]) -> Client:
        """What an extension gets as `context.http`. Raises ExtensionFailed if what it declares is no host."""
        try:
            patterns = [normal_pattern(text) for text in declared]
        except Malformed as error:
            raise ExtensionFailed(
                f"The manifest of {extension!r} declares a host that cannot be: {error}.",
                fix="Report it to its author.",
            ) from None
        client = Client(self, extension, patterns)
        self._clients.add(client)
        return client

    def forget(self, client: Client) -> None:
        """A client that was closed."""
        self._clients.discard(client)

    async def close(self) -> None:
        """End all requests, close all connections, and finish the ledger."""
        for client in list(self._clients):
            await client.close()
        await self.ledger.settle()

    # what the user says

    @property
    def offline(self) -> bool:
        """Whether nothing leaves, whatever was granted."""
        return self._offline

    async def set_offline(self, offline: bool) -> None:
        """Cut everything off, transfers that run included, or allow again what is granted.

        Going offline holds from this moment on, even if the store does not take it.
        """
        if offline:
            self._cut_off()
            for client in list(self._clients):
                await client.hang_up()

        def work(connection: Connection) -> None:
            connection.execute(delete(schema.facts).where(schema.facts.c.name == _SWITCH))
            connection.execute(
                insert(schema.facts).values(name=_SWITCH, value=orjson.dumps(offline).decode())
            )

        async with self._one_change:
            await self._database.write(work)
            self._offline = offline
            if offline:
                self._cut_off()  # what passed if it was switched back while this waited

    def _cut_off(self) -> None:
        self._offline = True
        for call in self._calls():
            call.end(
                EgressRefused("Allod went offline, which ended this request.", fix=_GO_ONLINE), "offline"
            )

    def grants(self) -> list[Grant]:
        """All that is allowed, oldest first."""
        return list(self._grants.values())

    async def allow(self, extension: str, host: str, purpose: str = ANY, once: bool = False) -> Grant:
        """Let an extension reach `host`, for `purpose` or any. What is granted already stays as it is.

        Raises BadRequest, which names the parameter.
        """
        host = _host_of_user(host)
        if not is_word(purpose):
            raise BadRequest(
                f"A purpose has 1 to {LONGEST_PURPOSE} printable characters.",
                param="purpose",
                fix='"*" is any.',
            )
        grant = Grant(f"grant_{secrets.token_hex(4)}", extension, purpose, host, once, time.time())

        def work(connection: Connection) -> None:
            connection.execute(insert(schema.grants), asdict(grant))

        async with self._one_change:
            for known in self._grants.values():
                if replace(known, id=grant.id, created_at=grant.created_at) == grant:
                    return known
            await self._database.write(work)
            self._grants[grant.id] = grant
        return grant

    def could_use(self, grant: Grant) -> bool:
        """Whether the manifest of a running extension declares the host; of one that does not run nothing is known."""
        return all(
            client.could_reach(grant.host) for client in self._clients if client.extension == grant.extension
        )

    async def deny(self, extension: str, host: str, purpose: str | None = None) -> None:
        """Take back what was granted for exactly this host, and end what runs by it. No purpose: for all of them.

        Raises NotFound if nothing was granted and nothing runs.
        """
        host = _host_of_user(host)

        def is_meant(grant: Grant) -> bool:
            return (grant.extension, grant.host) == (extension, host) and purpose in (None, grant.purpose)

        async with self._one_change:
            taken = [grant.id for grant in self._grants.values() if is_meant(grant)]
            calls = [call for call in self._calls() if any(map(is_meant, call.grants))]
            if not taken and not calls:
                raise NotFound(
                    f"{extension!r} was not allowed to reach {host}.",
                    fix="`allod egress` lists what is granted.",
                )
            await self._forget(taken)
            for call in self._calls():
                if any(map(is_meant, call.grants)):
                    error = EgressRefused(
                        f"You took back what let {extension!r} reach {host}.",
                        fix=_how_to_allow(extension, host),
                    )
                    call.end(error, "denied")

    async def entries(
        self, limit: int, before_id: int | None = None, extension: str | None = None
    ) -> list[Entry]:
        """The newest entries of the ledger, newest first; with `before_id`, those before that one."""
        return await self.ledger.entries(limit, before_id, extension)

    # what extensions want

    async def admit(self, call: Call, hop: Hop, wanted: Request | Malformed) -> Request:
        """Let one request pass, or note in `hop` why not. Uses up a grant for once.

        Raises EgressRefused; what `call` was ended with meanwhile; and what the store raises.
        """
        if isinstance(wanted, Request):
            hop.host = wanted.target.host
        self._judge(call, hop, wanted)
        assert isinstance(wanted, Request)
        if not await self._use_grant(call, wanted.target):
            hop.verdict = "ungranted"
            self._events.publish(EgressAsked(call.extension, call.purpose, hop.host))
            raise EgressRefused(
                f"{call.extension!r} wants to reach {hop.host} ({call.purpose}), and you have not allowed it.",
                fix=_how_to_allow(call.extension, hop.host),
            )
        call.check()  # it may have waited for the store
        hop.verdict = "allowed"
        call.is_secure = wanted.target.scheme == "https"
        return wanted

    def _judge(self, call: Call, hop: Hop, wanted: Request | Malformed) -> None:
        """Everything but the grants."""
        call.check()
        who = repr(call.extension)
        if self._offline:
            hop.verdict = "offline"
            raise EgressRefused(f"Allod is offline, so {who} cannot reach the world.", fix=_GO_ONLINE)
        if isinstance(wanted, Malformed):
            hop.verdict = "malformed"
            raise EgressRefused(
                f"{who} wanted to send what cannot be sent: {wanted}.", fix="Report it to its author."
            )
        if not call.may_ask(wanted.target):
            hop.verdict = "undeclared"
            raise EgressRefused(
                f"{who} wanted to reach {hop.host}, which its manifest does not declare.",
                fix="Report it to its author: an extension reaches only what it declares.",
            )
        if call.is_secure and wanted.target.scheme == "http":
            hop.verdict = "downgrade"
            raise EgressRefused(
                f"{who} was redirected from https to {hop.host} by http, where everybody may read along.",
                fix="Report it to those who run that server.",
            )

    async def _use_grant(self, call: Call, target: Target) -> bool:
        def fits(grant: Grant) -> bool:
            is_for = grant.extension == call.extension and grant.purpose in (ANY, call.purpose)
            return is_for and grant.host in target.names

        if any(map(fits, call.grants)):
            return True
        lasting = next((grant for grant in self._grants.values() if fits(grant) and not grant.once), None)
        if lasting is not None:
            call.grants.append(lasting)
            return True
        async with self._one_change:  # so that no other request finds the same grant for once
            found = next(filter(fits, self._grants.values()), None)
            if found is None:
                return False
            if found.once:
                await self._forget([found.id])
            call.grants.append(found)
            return True

    async def _forget(self, ids: Sequence[str]) -> None:
        """Drop grants, in the store first."""

        def work(connection: Connection) -> None:
            connection.execute(delete(schema.grants).where(schema.grants.c.id.in_(ids)))

        if ids:
            await self._database.write(work)
        for id in ids:
            self._grants.pop(id, None)

    def _calls(self) -> Iterator[Call]:
        for client in self._clients:
            yield from client.calls


async def _looked_up(name: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _host_of_user(host: str) -> str:
    try:
        return normal_host(host.strip())
    except Malformed:
        raise BadRequest(
            f"{host[:80]!r} is not a host.",
            param="host",
            fix="Give its name only, such as example.org, or with a port: localhost:8080.",
        ) from None


def _how_to_allow(extension: str, host: str) -> str:
    return f"To allow it: allod egress allow {extension} {host}"
