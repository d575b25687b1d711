"""What the scheduler knows of each worker: who waits, who runs, what is free, and what its engine says of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from allod.kernel.eviction import Resident
from allod.sdk.chat import Purpose
from allod.sdk.engine import LoadableEngine, LoadPlan, ModelCard

State = Literal["stopped", "starting", "ready", "busy", "stopping", "failed"]
_log = logging.getLogger("allod.scheduler")


@dataclass(slots=True)
class Need:
    """What a lease takes. `tokens` may be an upper bound; then `measure` gives the exact number, which costs time."""

    slots: int
    tokens: int
    measure: Callable[[], Awaitable[int]] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A place on a loaded model: by which plan, and in which of its loads."""

    plan: LoadPlan
    term: int


@dataclass(slots=True, eq=False)
class Waiter:
    """A request in line."""

    need: Need
    granted: asyncio.Future[Grant]
    measuring: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class Seat:
    """All state of one model's worker for one purpose.

    `term` counts its loads, so that a late return goes to the load that it came from.
    """

    card: ModelCard
    engine: LoadableEngine
    purpose: Purpose = "chat"
    state: State = "stopped"
    reason: str = ""
    plan: LoadPlan | None = None
    term: int = 0
    running: int = 0
    free_slots: int = 0
    free_tokens: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)
    work: asyncio.Task[None] | None = None
    pinned: bool = False
    keep_alive_s: float | None = None
    last_used: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_loaded(self) -> bool:
        """Whether it can be used now."""
        return self.state in ("ready", "busy")

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self.card.id if self.purpose == "chat" else f"{self.card.id} ({self.purpose})"

    @property
    def memory_bytes(self) -> int:
        """What the model takes now; 0 where its engine does not say."""
        try:
            return self.engine.memory_bytes(self.card.id, self.purpose)
        except Exception:
            _log.exception("the engine %s does not say what %s takes", self.engine.name, self.name)
            return 0

    def fits(self, need: Need) -> bool:
        """Whether there is room for it now."""
        assert self.plan is not None
        tokens = min(need.tokens, self.plan.pool_tokens)
        return min(need.slots, self.plan.slots) <= self.free_slots and tokens <= self.free_tokens

    def as_resident(self, plan: LoadPlan) -> Resident:
        """As eviction sees it: by plan, since a context fills up only while it is used."""
        return Resident(plan, self.running > 0, self.pinned, self.last_used)

    def as_row(self, unloads_in_s: float | None) -> dict[str, object]:
        """For `allod ps`. `shared_bytes` are those of `planned_bytes` that all workers of the model have in common."""
        plan = self.plan
        return {
            "model": self.card.id,
            "purpose": self.purpose,
            "state": self.state,
            "reason": self.reason,
            "running": self.running,
            "waiting": len(self.waiting),
            "pinned": self.pinned,
            "unloads_in_s": None if unloads_in_s is None else round(max(0.0, unloads_in_s), 1),
            "context_tokens": plan.context_tokens if plan else 0,
            "pool_tokens": plan.pool_tokens if plan else 0,
            "slots": plan.slots if plan else 0,
            "planned_bytes": plan.total_bytes if plan else 0,
            "shared_bytes": sum(plan.shared_bytes.values()) if plan else 0,
            "memory_bytes": self.memory_bytes,
        }
