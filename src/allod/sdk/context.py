"""All that an extension is ever handed. Each member is already its own: settings, log, events, children."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from allod.sdk.engine import LoadPlan, ModelCard, ModelId
from allod.sdk.events import Events
from allod.sdk.processes import Processes

S_co = TypeVar("S_co", covariant=True)


class Models(Protocol):
    """The models of all engines, and what is in memory."""

    async def cards(self) -> Sequence[ModelCard]:
        """All models known."""
        ...

    async def find(self, name: str) -> ModelCard:
        """The model of this name, also by an alias. Raises ModelNotFound, which lists the known ones."""
        ...

    def state(self, model: ModelId) -> str:
        """The state of a model: stopped, starting, ready, busy, stopping or failed."""
        ...

    async def load(
        self, model: ModelId, keep_alive_s: float | None = None, pin: bool | None = None
    ) -> LoadPlan:
        """Load a model now and wait for it. A pinned one is never unloaded to make room."""
        ...

    async def unload(self, model: ModelId) -> None:
        """Unload a model once its runs have ended; new ones wait and load it again."""
        ...

    def report(self) -> Sequence[Mapping[str, object]]:
        """What was used: model, state, reason, running, waiting, pinned, plan, memory, time until it is unloaded."""
        ...


class Context(Protocol[S_co]):
    """Handed to an extension before it starts."""

    @property
    def settings(self) -> S_co:
        """Frozen; read when used, never copied."""
        ...

    @property
    def data_folder(self) -> Path:
        """Allod's data folder."""
        ...

    @property
    def events(self) -> Events:
        """What has happened, in this server."""
        ...

    @property
    def processes(self) -> Processes:
        """The only maker of child processes."""
        ...

    @property
    def models(self) -> Models:
        """The models of all engines."""
        ...

    @property
    def log(self) -> logging.Logger:
        """Never handed text of a message."""
        ...
