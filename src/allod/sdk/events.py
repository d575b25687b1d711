"""What has happened, told to whoever wants to know. Names are past tense; no event holds text of a message.

`publish` tells it to those who listen now. `record` keeps it first, in the same transaction as what it tells of, so
that subscribers hear of it at least once, also after a crash. What is memory-only is only ever published.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events: frozen dataclasses whose fields are JSON. An event is known by its class's name.

    No field is called `source` or `at`: everybody who reads the stream of events gets these two with each.
    """


@dataclass(frozen=True, slots=True)
class ModelStateChanged(Event):
    """A model's worker is now in another state: starting, ready, busy, stopping, stopped or failed (and why)."""

    model: str
    state: str
    reason: str = ""
    purpose: str = "chat"


@dataclass(frozen=True, slots=True)
class ModelLoadProgressed(Event):
    """A model that is being loaded has got this far, from 0 to 1."""

    model: str
    progress: float
    purpose: str = "chat"


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """A run has ended. Times in seconds; outcome is ok, cancelled or an error's code."""

    model: str
    route: str
    outcome: str
    duration_s: float
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ExtensionStateChanged(Event):
    """An extension is now in another state: active, failed, refused, disabled or stopped (`reason` says why)."""

    extension: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StageRemoved(Event):
    """A stage that may be skipped failed too often in a row, and is out until its extension starts again."""

    extension: str
    stage: str


@dataclass(frozen=True, slots=True)
class SettingsChanged(Event):
    """The user changed settings of this namespace."""

    namespace: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobProgressed(Event):
    """A job has got this far, or is in another state."""

    job: str
    kind: str
    state: str
    done: float
    total: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """A job has ended: done, failed or cancelled. Recorded."""

    job: str
    kind: str
    state: str


@dataclass(frozen=True, slots=True)
class EgressAsked(Event):
    """An extension wanted to reach a host that the user has not allowed yet."""

    extension: str
    purpose: str
    host: str


@dataclass(frozen=True, slots=True)
class AssistantChanged(Event):
    """An assistant is now other than before: created, changed, deleted or default (the one for chats that name none).

    `version` is its newest one; where it was deleted, the one that it had last. Recorded.
    """

    assistant: str
    version: int
    change: Literal["created", "changed", "deleted", "default"]


E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Subscription(Generic[E]):
    """An extension's wish to hear of every event of one class. `handler` gets them one at a time, in order.

    What was recorded it hears at least once, also what was recorded while the extension did not run; the first time,
    it begins at the present. What was only published it hears while it runs, and loses the oldest where it is more
    than 1,000 behind. If it raises, that is logged, and it goes on with the next.
    """

    kind: type[E]
    handler: Callable[[E], Awaitable[None]]


Subscriptions = Sequence[Subscription[Any]]


class Events(Protocol):
    """Publish and subscribe, inside the server process."""

    def publish(self, event: Event) -> None:
        """Hand `event` to its subscribers; never waits for them. On the event loop only."""
        ...

    def record(self, connection: Connection, event: Event) -> None:
        """Keep `event` in the transaction of `connection`; once that is committed, it is handed to its subscribers.

        Called inside the `work` of a `store.write`. A subscriber may get it twice if the server ends in between.
        Raises ExtensionFailed where a field is not JSON.
        """
        ...

    def subscribe(self, kind: type[E], handler: Callable[[E], Awaitable[None]]) -> Callable[[], None]:
        """Call `handler` for each event of exactly this class, one at a time, in order. Returns what ends it.

        It hears what happens while it lasts. To miss no recorded event, contribute a Subscription.
        """
        ...
