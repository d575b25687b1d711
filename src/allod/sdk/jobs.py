"""Work that takes long and must not be lost: it is kept, goes on after a restart, and is done once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NewType, Protocol, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from sqlalchemy import Connection

JobId = NewType("JobId", str)
JobState = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
"""By itself: queued, running, then done or failed. On request: queued or running to paused; paused, failed or cancelled
to queued; queued, running or paused to cancelled. What is done stays so."""
P = TypeVar("P", bound=BaseModel)
P_co = TypeVar("P_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands. Times in seconds since 1970; `total` is 0 while nobody knows how much there is to do.

    `attempts`: how often in a row the server ended while it ran and had saved nothing new; the third time it fails.
    """

    id: JobId
    extension: str
    kind: str
    title: str
    state: JobState
    done: float
    total: float
    note: str
    attempts: int
    created_at: float
    changed_at: float
    result: Mapping[str, Any] | None = None
    error: str = ""
    fix: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("done", "failed", "cancelled")


class Job(Protocol[P_co]):
    """A job, as the code that does it sees it."""

    @property
    def id(self) -> JobId:
        """Its id."""
        ...

    @property
    def parameters(self) -> P_co:
        """What was asked for."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """What the last `save` kept, empty at the first start: a job that is resumed goes on from here."""
        ...

    def progress(self, done: float, total: float = 0, note: str = "") -> None:
        """Tell how far it is, from any thread. Cheap: call it as often as you like."""
        ...

    async def save(
        self, state: Mapping[str, Any], also: Callable[[Connection], object] | None = None
    ) -> None:
        """Keep `state` (JSON), and in the same transaction what `also` writes into the extension's own tables.

        What was done before a `save` that has returned is never done again. Raises ExtensionFailed where `state` is
        not JSON, StoreFull, StoreReadOnly, and Conflict if the job was stopped and did not let go.
        """
        ...


class JobKind(Generic[P]):
    """Base class of all kinds of jobs. To pause or cancel one, its `run` is cancelled like any task.

    It has 10 s to let go; whatever it returns or raises then, it is paused or cancelled.
    """

    name: ClassVar[str]
    """verb_noun, such as download_model."""
    title: ClassVar[str]
    """What it does, shown to people."""
    parameters: ClassVar[type[BaseModel]]
    at_once: ClassVar[int] = 1
    """How many of this kind run side by side; others wait in line."""

    async def run(self, job: Job[P]) -> Mapping[str, Any] | None:
        """Do it, and return the result, a JSON object. Raising fails the job; of an AllodError people see the words."""
        raise NotImplementedError


class Jobs(Protocol):
    """An extension's own jobs."""

    async def start(self, kind: str, parameters: BaseModel) -> JobId:
        """Put a job in line. It is kept before this returns. Raises NotFound where there is no such kind."""
        ...

    async def get(self, job: JobId) -> JobStatus:
        """Where it stands. Raises NotFound."""
        ...

    async def all(self) -> Sequence[JobStatus]:
        """All that are kept, newest first."""
        ...

    async def pause(self, job: JobId) -> JobStatus:
        """Stop working on it until it is resumed. Raises NotFound, and Conflict if it has ended."""
        ...

    async def resume(self, job: JobId) -> JobStatus:
        """Go on with a paused job, or try a failed or cancelled one again, from what it saved last.

        Raises NotFound, and Conflict if it is done.
        """
        ...

    async def cancel(self, job: JobId) -> JobStatus:
        """End it. Raises NotFound, and Conflict if it has ended by itself."""
        ...

    def watch(self, job: JobId) -> AsyncIterator[JobStatus]:
        """Where it stands, now and at each change, until it has ended."""
        ...
