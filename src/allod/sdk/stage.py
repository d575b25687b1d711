"""A stage looks at every run before it reaches a model, and may change it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal

from allod.sdk.chat import Run
from allod.sdk.stream import Usage


class Phase(IntEnum):
    """When a stage has its turn: who speaks, what it knows, with which parameters, where it may go.

    ROUTE is last on purpose: what earlier stages added can be more private than the question.
    """

    COMPOSE = 1
    ENRICH = 2
    CHOOSE = 3
    ROUTE = 4


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run has ended: `outcome` is ok, cancelled or an error's code; `usage` is None where it ended early."""

    outcome: str
    duration_s: float
    usage: Usage | None = None


class Stage:
    """Base class of all stages."""

    name: ClassVar[str]
    phase: ClassVar[Phase]
    on_failure: ClassVar[Literal["refuse", "skip"]] = "refuse"
    """What a raising `before` means: the run is refused, or goes on without this stage, which is said beside it."""

    timeout_s: ClassVar[float] = 60
    """How long `before` and `after` may take; longer counts as a failure."""

    async def before(self, run: Run) -> None:
        """Change `run.request`, or raise an AllodError to refuse it."""

    async def after(self, run: Run, ending: Ending) -> None:
        """Look at a run that has ended."""
