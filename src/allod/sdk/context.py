"""All that an extension is ever handed. Each member is already its own: settings, log, events, children."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from allod.sdk.chat import Run
from allod.sdk.engine import LoadPlan, ModelCard, ModelId
from allod.sdk.events import Events
from allod.sdk.processes import Processes

S_co = TypeVar("S_co", covariant=True)


class Models(Protocol):
    """The loaded and loadable models of all engines, as the scheduler sees them."""

    async def cards(self) -> Sequence[ModelCard]:
        """All models known."""
        ...

    async def resolve(self, name: str) -> ModelCard:
        """The model of this name, also by an alias. Raises ModelNotFound, which lists the known ones."""
        ...

    def state(self, model: ModelId) -> str:
        """starting, ready, busy, stopping, stopped or failed."""
        ...

    async def load(self, model: ModelId, keep_alive_s: float | None = None, pin: bool | None = None) -> None:
        """Load a model now and wait for it. A pinned one is never unloaded to make room."""
        ...

    async def unload(self, model: ModelId) -> None:
        """Unload a model once its runs have ended; new ones wait meanwhile."""
        ...

    def resident(self) -> Sequence[dict[str, object]]:
        """What is loaded: model, state, plan, leases, waiting, memory, seconds until it is unloaded."""
        ...

    async def plan(self, model: ModelId) -> LoadPlan:
        """What loading a model would take."""
        ...

    async def with_lease(self, run: Run, work: Callable[[], object]) -> object:
        """Run `await work()` while holding a lease on the run's model."""
        ...


class Context(Protocol[S_co]):
    """Handed to an extension before it starts."""

    @property
    def settings(self) -> S_co:
        """Frozen; read when used, never copied."""
        ...

    data_folder: Path
    events: Events
    processes: Processes
    models: Models
    log: logging.Logger
