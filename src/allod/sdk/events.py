"""What has happened, told to whoever wants to know. Names are past tense; no event holds text of a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events."""


@dataclass(frozen=True, slots=True)
class ModelStateChanged(Event):
    """A model is now in another state: starting, ready, busy, stopping, stopped or failed (`reason` says why)."""

    model: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelLoadProgressed(Event):
    """A model that is being loaded has got this far, from 0 to 1."""

    model: str
    progress: float


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """A run has ended. Times in seconds; outcome is ok, cancelled or an error's code."""

    model: str
    route: str
    outcome: str
    duration_s: float
    prompt_tokens: int = 0
    completion_tokens: int = 0


E = TypeVar("E", bound=Event)


class Events(Protocol):
    """Publish and subscribe, inside the server process."""

    def publish(self, event: Event) -> None:
        """Hand `event` to its subscribers; never waits for them."""
        ...

    def subscribe(self, kind: type[E], handler: Callable[[E], Awaitable[None]]) -> Callable[[], None]:
        """Call `handler` for each event of a kind, one at a time, in order. Returns what ends it."""
        ...
