"""The extension in a whole kernel on a data folder, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from allod.gateway.server import Gateway
from allod.kernel.house import House
from allod.sdk.events import AssistantChanged
from allod.sdk.services import Assistants
from allod.testing.house import gateway_on, point, standing
from tests.unit.gateway.asgi import Answer, receiver, scope

POINT = point("assistant", "allod.extensions.assistant.extension:AssistantExtension")


class Server:
    """The running extension. Paths begin behind /api/assistant."""

    def __init__(self, house: House, gateway: Gateway) -> None:
        self.house = house
        self._gateway = gateway
        self._key = house.keys.create_own()

    @property
    def service(self) -> Assistants:
        """What other extensions are given."""
        return self.house.services.get(Assistants)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request, `body` as JSON."""
        place, _, query = f"/api/assistant{path}".partition("?")
        kind = {} if body is None else {"content-type": "application/json"}
        asked = scope(method, unquote(place), {"x-api-key": self._key, **kind, **headers})
        asked["query_string"] = query.encode()
        answer = Answer()
        await self._gateway(
            asked, receiver([b"" if body is None else json.dumps(body).encode()]), answer.take
        )
        return answer

    async def told(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that is no refusal."""
        answer = await self.ask(method, path, body)
        assert answer.status < 300, answer.body
        return answer.json if answer.body else None

    async def refused(self, status: int, method: str, path: str, body: Any = None) -> Any:
        """The problem details of a refusal with this status."""
        answer = await self.ask(method, path, body)
        assert answer.status == status, answer.body
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["detail"] and answer.json["fix"]
        return answer.json

    async def make(self, name: str, **fields: Any) -> Any:
        """A new assistant, as it is shown."""
        return await self.told("POST", "/assistants", {"name": name, **fields})

    async def names(self) -> list[str]:
        """The names of all assistants, in the order of the list."""
        return [each["name"] for each in (await self.told("GET", "/assistants"))["assistants"]]

    async def events(self) -> list[tuple[str, int, str]]:
        """All that was recorded of assistants, oldest first."""
        assert self.house.events.outbox is not None
        rows = await self.house.events.outbox.after(0, name=AssistantChanged.__name__)
        told = [json.loads(row.fields) for row in rows]
        return [(each["assistant"], each["version"], each["change"]) for each in told]


@asynccontextmanager
async def serving(folder: Path, settings: Mapping[str, Any] | None = None) -> AsyncIterator[Server]:
    """The extension on `folder`, with these settings."""
    async with standing(folder, [POINT], settings={"assistant": settings or {}}) as house:
        (entry,) = house.host.entries()
        assert (entry.state, entry.reason) == ("active", "")
        yield Server(house, await gateway_on(house))
