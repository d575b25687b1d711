"""One HTTP exchange in raw ASGI: reads a body within limits, answers once, notices a client that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import orjson

from allod.sdk.errors import BadRequest, BodyTooLarge, BodyTooSlow, UnsupportedContentType

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON: Headers = ((b"content-type", b"application/json"),)
_MIB = 1 << 20
_BODY_TAKES_S = 120


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.began = time.monotonic()
        self.has_begun = False
        self.has_ended = False
        self._receive = receive
        self._send_on = send

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
        elif not message.get("more_body"):
            self.has_ended = True
        await self._send_on(message)

    async def serve_by(self, application: Application, scope: Scope, max_mib: int) -> None:
        """Let another ASGI application answer, with a body that has been read within the same limits."""
        body = b"" if self.method in ("GET", "HEAD") else await self._read(max_mib)
        if b"\\u" in body and self.headers.get(b"content-type", b"").startswith(b"application/json"):
            _parsed(body)  # halves of characters, which Python's own parser lets through, can be kept nowhere
        if self.method == "HEAD":  # the web server leaves the body out
            scope = {**scope, "method": "GET"}
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            return pending.pop() if pending else await self._receive()

        try:
            await application(scope, receive, self._send)
        except Exception:
            if not self.has_ended:  # else it was answered and logged before it was raised again
                raise

    async def read_json(self, max_mib: int) -> dict[str, Any]:
        """The body as a JSON object. Raises BodyTooLarge, BodyTooSlow, UnsupportedContentType, BadRequest."""
        check_kind(self.headers.get(b"content-type", b"application/json"))
        body = _parsed(await self._read(max_mib))
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.", fix="Wrap it in {…}.")
        return body

    async def _read(self, max_mib: int) -> bytes:
        try:
            async with asyncio.timeout(_BODY_TAKES_S):
                return await self._read_parts(max_mib)
        except TimeoutError:
            raise BodyTooSlow(
                f"The body did not arrive within {_BODY_TAKES_S:g} s.", fix="Send it again."
            ) from None

    async def _read_parts(self, max_mib: int) -> bytes:
        limit = max_mib * _MIB
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(max_mib)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("The client left before it had sent the whole body.")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(max_mib)
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def drain(self, timeout_s: float) -> None:
        """Throw away what is left of a refused body: many clients read no answer before they have sent all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return

    async def reply(self, status: int, body: bytes, headers: Headers = JSON) -> None:
        """Answer as a whole."""
        await self.begin(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def reply_json(self, value: Any, status: int = 200) -> None:
        """Answer with JSON."""
        await self.reply(status, orjson.dumps(value))

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head."""
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body; waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def while_connected(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, and cancel it as soon as the client leaves. Call it once the body has been read."""
        task = asyncio.current_task()
        assert task is not None
        left = False

        async def watch() -> None:
            nonlocal left
            while (await self._receive())["type"] != "http.disconnect":
                pass
            left = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await work()
        except asyncio.CancelledError:
            if not left or task.uncancel() > 0:
                raise
        finally:
            watcher.cancel()


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not valid JSON (line {error.lineno}, column {error.colno}).", fix="Correct it."
        ) from None


def check_kind(content_type: bytes) -> None:
    """Raises UnsupportedContentType unless it is JSON's."""
    kind = content_type.split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise UnsupportedContentType(
            f"The body is {kind.decode('latin-1')[:60]!r}.",
            fix="Send JSON with Content-Type: application/json.",
        )


def _too_large(max_mib: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {max_mib} MiB.", fix="Send less, or raise server.max_body_mib."
    )
