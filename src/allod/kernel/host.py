"""Finds extensions by the entry-point group `allod.extensions`, starts them, and leaves out those that fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from allod.kernel.settings import Settings
from allod.sdk.context import Models
from allod.sdk.engine import Engine
from allod.sdk.events import Events
from allod.sdk.extension import API, RESERVED_NAMES, Extension
from allod.sdk.processes import Processes
from allod.sdk.stage import Stage

GROUP = "allod.extensions"
_START_S = 10
_log = logging.getLogger("allod.host")


@dataclass(frozen=True, slots=True)
class ExtensionContext:
    """What one extension is handed."""

    settings: Any
    data_folder: Path
    events: Events
    processes: Processes
    models: Models
    log: logging.Logger


@dataclass(frozen=True, slots=True)
class Failed:
    """An extension that was left out, and what to do."""

    name: str
    reason: str
    fix: str


class Host:
    """The extensions of one server."""

    def __init__(self, settings: Settings, make_context: Callable[[str, Any], ExtensionContext]) -> None:
        self._settings = settings
        self._make_context = make_context
        self.active: list[Extension[Any]] = []
        self.failed: list[Failed] = []

    async def start(self) -> None:
        """Start every installed extension, in order of name."""
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
            try:
                async with asyncio.timeout(_START_S):
                    self.active.append(await self._start(point))
            except Exception as error:
                reason = (
                    f"did not start within {_START_S} s" if isinstance(error, TimeoutError) else str(error)
                )
                _log.exception("extension %s was left out", point.name)
                self.failed.append(
                    Failed(point.name, reason, "Update or uninstall it, or correct its settings.")
                )

    async def _start(self, point: EntryPoint) -> Extension[Any]:
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Extension)):
            raise TypeError(f"{point.value} is not an Extension")
        manifest = kind.manifest
        if manifest.api != API:
            raise TypeError(f"it was written for version {manifest.api} of the contract, and this is {API}")
        if manifest.name in RESERVED_NAMES:
            raise TypeError(f"the name {manifest.name!r} is taken")
        settings = self._settings.load(manifest.name, kind.Settings)
        extension = kind(self._make_context(manifest.name, settings))
        await extension.start()
        return extension

    def engines(self) -> Sequence[Engine]:
        """The engines of all active extensions."""
        return [engine for extension in self.active for engine in extension.engines()]

    def stages(self) -> Sequence[Stage]:
        """The stages of all active extensions."""
        return [stage for extension in self.active for stage in extension.stages()]

    async def stop(self) -> None:
        """Stop all, last started first."""
        for extension in reversed(self.active):
            try:
                async with asyncio.timeout(_START_S):
                    await extension.stop()
            except Exception:
                _log.exception("extension %s did not stop in order", extension.manifest.name)
        self.active.clear()
