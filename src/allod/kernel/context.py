"""What one extension is handed: the kernel's rooms, each narrowed to what is its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from allod.kernel.processes import ChildProcess, ChildProcesses
from allod.kernel.settings import Settings
from allod.sdk.blobs import Blobs
from allod.sdk.context import Chat, Models
from allod.sdk.errors import LoadFailed, ServiceMissing
from allod.sdk.events import Events
from allod.sdk.http import HttpClient
from allod.sdk.jobs import Jobs
from allod.sdk.processes import Address, Walls
from allod.sdk.secrets import Secrets
from allod.sdk.storage import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


class Services:
    """What extensions offer one another, by the interface of the sdk."""

    def __init__(self) -> None:
        self._offered: dict[type, list[tuple[str, object]]] = {}

    def offer(self, extension: str, services: Mapping[type, object]) -> None:
        """Add an extension's services. Of several of one kind the one that was offered first is given."""
        for kind, service in services.items():
            self._offered.setdefault(kind, []).append((extension, service))

    def withdraw(self, extension: str) -> None:
        """Take an extension's services out."""
        for kind, pairs in self._offered.items():
            self._offered[kind] = [pair for pair in pairs if pair[0] != extension]

    def get(self, kind: type[T]) -> T:
        """The service of this kind. Raises ServiceMissing."""
        if not self._offered.get(kind):
            raise ServiceMissing(
                f"No extension offers {kind.__name__} now.", fix="`allod extensions` shows which ones run."
            )
        service: Any = self._offered[kind][0][1]
        return service  # type: ignore[no-any-return]


class OwnProcesses:
    """The maker of children, as one extension sees it: what it has not ended ends with it."""

    def __init__(self, processes: ChildProcesses) -> None:
        self._processes = processes
        self._children: set[ChildProcess] = set()
        self._is_closed = False

    async def spawn(self, name: str, argv: Callable[[Address], Sequence[str]], walls: Walls) -> ChildProcess:
        """Start a program without network that listens on an address of its own."""
        if self._is_closed:
            raise LoadFailed(f"{name} was not started: its extension has been stopped.")
        child = await self._processes.spawn(name, argv, walls)
        self._children.add(child)
        child.on_end(lambda: self._children.discard(child))
        return child

    async def run(self, argv: Sequence[str], *, timeout_s: float = 10) -> str:
        """Run a short program to its end and return what it printed."""
        return await self._processes.run(argv, timeout_s=timeout_s)

    async def close(self) -> list[str]:
        """End what still runs, and say what that was."""
        self._is_closed = True
        left = list(self._children)
        for child in left:
            await child.stop()
        return sorted(child.name for child in left)


class ExtensionContext:
    """Implements `sdk.context.Context`."""

    def __init__(
        self,
        name: str,
        *,
        settings: Settings,
        data_folder: Path,
        store: Store,
        blobs: Blobs,
        secrets: Secrets,
        http: HttpClient,
        events: Events,
        jobs: Jobs,
        processes: OwnProcesses,
        models: Models,
        chat: Chat,
        services: Services,
    ) -> None:
        self._name = name
        self._settings = settings
        self._services = services
        self.data_folder = data_folder
        self.store = store
        self.blobs = blobs
        self.secrets = secrets
        self.http = http
        self.events = events
        self.jobs = jobs
        self.processes = processes
        self.models = models
        self.chat = chat
        self.log = logging.getLogger(f"allod.{name}")

    @property
    def settings(self) -> Any:
        """As they are now."""
        return self._settings.current(self._name)

    def service(self, kind: type[T]) -> T:
        """What another extension offers."""
        return self._services.get(kind)
