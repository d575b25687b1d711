"""Child processes, as an extension sees them: it asks for one and gets it walled, with a client of its own socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    body: bytes


class ByteStream(Protocol):
    """An HTTP answer whose head has come and whose body is still coming."""

    @property
    def status(self) -> int:
        """Its HTTP status."""
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, pieces that have piled up joined. Leaving early closes the connection.

        Raises EngineGone if the process ends or the connection breaks before the body's end.
        """
        ...

    async def read(self) -> bytes:
        """What is left of the body."""
        ...


class HttpClient(Protocol):
    """HTTP to one child, over its own unix socket."""

    async def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 60) -> Reply:
        """Send `body` as JSON and wait for the whole answer. Raises EngineGone."""
        ...

    async def stream(self, path: str, body: Any) -> ByteStream:
        """POST `body` as JSON and wait for the head of the answer, however long that takes. Raises EngineGone."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a child listens: a unix socket's path with port 0, or on Windows a loopback address, port and key."""

    host: str
    port: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Walls:
    """What a child may touch of this machine. Everything else is shut where the system can shut it."""

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Child(Protocol):
    """A running child process."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def http(self) -> HttpClient:
        """The client of its own socket."""
        ...

    @property
    def walls(self) -> Mapping[str, Any]:
        """Layer -> what held (None where the system refused it); empty where this system has no walls."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        ...

    @property
    def rss_bytes(self) -> int:
        """Memory that it takes now, 0 when it has ended."""
        ...

    async def ensure_ready(
        self, *, deadline_s: float, health: str = "/health", watch: Callable[[int], None] | None = None
    ) -> None:
        """Wait until GET `health` says 200; `watch` is called with `rss_bytes` every 0.1 s meanwhile.

        Raises EngineGone if it ends first, TimeoutError after the deadline.
        """
        ...

    async def wait(self) -> str:
        """Wait for its end and say how it ended, in words."""
        ...

    async def stop(self, grace_s: float = 3) -> None:
        """End it: politely first, by force after `grace_s`. Its socket folder is gone afterwards."""
        ...

    def output(self) -> Sequence[str]:
        """The last lines that it printed before it was ready; what it prints later may hold words, and is not kept.

        For finding a reason only: never shown as they are.
        """
        ...


class Processes(Protocol):
    """The only maker of child processes."""

    async def spawn(self, name: str, argv: Callable[[Address], Sequence[str]], walls: Walls) -> Child:
        """Start a program without network that listens on a unix socket in a folder of its own.

        `argv` is called with the address to listen on. Raises LoadFailed if it cannot be started, or if no wall holds.
        """
        ...

    async def run(self, argv: Sequence[str], *, timeout_s: float = 10) -> str:
        """Run a short program to its end and return what it printed. Raises LoadFailed."""
        ...
