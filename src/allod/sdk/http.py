"""HTTP to the world, for extensions. The only way out; nothing passes that the user has not allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class HttpAnswer(Protocol):
    """An answer whose head has come and whose body is still coming."""

    @property
    def status(self) -> int:
        """Its HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, by names in small letters."""
        ...

    @property
    def url(self) -> str:
        """Where it came from at last, after all redirects."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises EgressFailed if it breaks off."""
        ...

    async def read(self, limit_bytes: int = 16 << 20) -> bytes:
        """The whole body. Raises EgressFailed if it is larger than the limit or breaks off."""
        ...


class HttpClient(Protocol):
    """HTTP through the egress gate."""

    def open(
        self,
        method: str,
        url: str,
        *,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        timeout_s: float = 60,
    ) -> AbstractAsyncContextManager[HttpAnswer]:
        """Send a request, and give its answer inside `async with`.

        `purpose` is a word or two that the user is shown, such as "model download"; grants are given per extension,
        purpose and host. `timeout_s` bounds the time without any byte. Redirects are followed, and each is judged
        again; to another origin only harmless headers travel (Accept*, Range, If-*, Content-*, User-Agent). A generator
        given as `body` is closed in any case.

        Raises EgressRefused where the user has not allowed it, EgressFailed where it was allowed and did not work.
        """
        ...
