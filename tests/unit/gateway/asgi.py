"""A client in the same process: one request to an ASGI application, and all that comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]


@dataclass
class Answer:
    """What was sent back so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    starts: int = 0
    is_whole: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.starts += 1
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body")


def scope(method: str, path: str, headers: dict[str, str], client: str = "127.0.0.1") -> Message:
    given = {"host": "localhost:1337", **headers}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": (client, 50000),
        "server": ("127.0.0.1", 1337),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value],
    }


def receiver(parts: Sequence[bytes], *, leaves: bool = False) -> Callable[[], Awaitable[Message]]:
    """Gives the body in parts; afterwards the client leaves, or waits for ever."""
    messages = [
        {"type": "http.request", "body": part, "more_body": leaves or number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


async def ask(
    app: Callable[..., Awaitable[None]],
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    *,
    client: str = "127.0.0.1",
    leaves: bool = False,
    **headers: str,
) -> Answer:
    """One request. Underscores in the names of headers stand for dashes; an empty header is left out."""
    parts = [body] if isinstance(body, bytes) else body
    answer = Answer()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await app(scope(method, path, named, client), receiver(parts, leaves=leaves), answer.take)
    return answer
