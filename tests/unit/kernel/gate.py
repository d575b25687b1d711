"""A gate on a store of its own, for tests of it: what it hears and asks is noted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text

from allod.kernel.authorizer import KERNEL
from allod.kernel.egress import Egress
from allod.kernel.egress_client import Client
from allod.kernel.egress_ledger import Entry
from allod.kernel.events import EventBus
from allod.kernel.storage import Database
from allod.sdk.events import EgressAsked
from tests.unit.kernel.database import kernel_database


@dataclass
class Gate:
    """An open gate. `addresses` says where names lead, loopback if not named; `looked_up` which were asked for."""

    egress: Egress
    database: Database
    client: Client
    addresses: dict[str, Sequence[str]]
    looked_up: list[str]
    asked: list[EgressAsked] = field(default_factory=list)

    async def get(self, url: str, **more: Any) -> bytes:
        """The body of an answer."""
        async with self.client.open("GET", url, **{"purpose": "test", **more}) as answer:
            return await answer.read()

    async def allow(self, *hosts: str, once: bool = False, purpose: str = "*") -> None:
        """Grant these to the client's extension."""
        for host in hosts:
            await self.egress.allow("ext", host, purpose, once)

    async def last(self) -> Entry:
        """The newest row of the ledger."""
        return (await self.egress.entries(1))[0]

    async def verdicts(self) -> list[str]:
        """All verdicts of the ledger, oldest first."""
        return [entry.verdict for entry in reversed(await self.egress.entries(1000))]

    async def sql(self, statement: str) -> None:
        """Change the store behind the gate's back."""
        await self.database.write(lambda connection: connection.execute(text(statement)) and None)


@asynccontextmanager
async def opened_gate(folder: Path, declared: Sequence[str] = ("user",)) -> AsyncIterator[Gate]:
    """The gate of a store in `folder`, made if there is none, and the client of an extension `ext`."""
    with kernel_database(folder) as database:
        async with _on(database, declared) as gate:
            yield gate


@asynccontextmanager
async def _on(database: Database, declared: Sequence[str]) -> AsyncIterator[Gate]:
    bus = EventBus()
    addresses: dict[str, Sequence[str]] = {}
    looked_up: list[str] = []

    async def resolve(name: str, port: int) -> Sequence[str]:
        looked_up.append(name)
        return addresses.get(name, ["127.0.0.1"])

    egress = Egress(database, bus.of(KERNEL), resolve=resolve)
    gate = Gate(egress, database, egress.client("ext", declared), addresses, looked_up)

    async def heard(event: EgressAsked) -> None:
        gate.asked.append(event)

    bus.subscribe(KERNEL, EgressAsked, heard)
    try:
        await egress.load()
        yield gate
    finally:
        await egress.close()
        await bus.close()
