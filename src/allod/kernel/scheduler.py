"""Who may use which model when: leases, loading, unloading.

One seat for each worker, that is for each model and purpose. A lease takes one or more of its slots and reserves tokens
of its shared context, so that two requests that fit alone never starve each other in mid-answer. Waiting is in order of
arrival. One load at a time, so that the memory a plan counted on is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from allod.kernel import custody
from allod.kernel.eviction import Resident, plan_eviction
from allod.kernel.faults import is_fault
from allod.kernel.metrics import Metrics
from allod.kernel.seats import Grant, Need, Seat, State, Waiter
from allod.sdk.chat import Purpose
from allod.sdk.engine import DeviceId, Engine, LoadableEngine, LoadPlan, ModelCard, ModelId
from allod.sdk.errors import AllodError, EngineGone, LoadFailed, QueueFull
from allod.sdk.events import Events, ModelStateChanged

FreeBytes = Callable[[Sequence[Resident]], Mapping[DeviceId, int]]
_log = logging.getLogger("allod.scheduler")

_FOREVER = float("inf")
_GRACE_S = 3.0
_PLAN_S = 60.0
_UNLOAD_S = 10.0
_BACK_OFF_S = (0.0, 0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # by failures in a row; the first retry is at once


class Scheduler:
    """Grants leases. `free_bytes` says what memory is free, given what is resident.

    It, `max_waiting` and `keep_alive_s` may be changed at any time.
    """

    def __init__(
        self,
        *,
        free_bytes: FreeBytes,
        events: Events,
        metrics: Metrics,
        max_waiting: int,
        keep_alive_s: float,
    ) -> None:
        self.free_bytes = free_bytes
        self._events = events
        self._metrics = metrics
        self.max_waiting = max_waiting
        self.keep_alive_s = keep_alive_s
        self._seats: dict[tuple[ModelId, Purpose], Seat] = {}
        self._memory = asyncio.Lock()
        self._idle_watch: asyncio.Task[None] | None = None
        self._is_closed = False

    # leases

    @asynccontextmanager
    async def lease(
        self,
        card: ModelCard,
        engine: LoadableEngine,
        need: Need,
        keep_alive_s: float | None = None,
        purpose: Purpose = "chat",
    ) -> AsyncIterator[LoadPlan]:
        """Hold a place on a loaded model; waits for it, and loads the model if need be.

        Raises QueueFull, LoadFailed, ModelTooLarge.
        """
        seat = self._seat(card, engine, purpose)
        if keep_alive_s is not None:
            seat.keep_alive_s = keep_alive_s  # holds until it is unloaded, for those too who say nothing
        asked = time.monotonic()
        grant = await self._enter(seat, need)
        self._metrics.queue_time.labels(card.id).observe(time.monotonic() - asked)
        try:
            yield grant.plan
            seat.failures = 0
        finally:
            self._leave(seat, grant.term, need)

    async def _enter(self, seat: Seat, need: Need) -> Grant:
        if seat.plan is not None and seat.is_loaded and not seat.waiting and seat.fits(need):
            return self._grant(seat, need)
        if self._is_closed:
            raise _stopping()
        if len(seat.waiting) >= self.max_waiting:
            raise QueueFull(
                f"{len(seat.waiting)} requests already wait for {seat.card.id!r}.",
                fix="Try again in a moment.",
                retry_after_s=5,
            )
        waiter = Waiter(need, asyncio.get_running_loop().create_future())
        seat.waiting.append(waiter)
        self._measure_queues(seat.card.id)
        self._pump(seat)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and not waiter.granted.exception():
                self._leave(seat, waiter.granted.result().term, need)  # granted in the same instant
            raise
        finally:
            if waiter.measuring is not None:
                waiter.measuring.cancel()
            if waiter in seat.waiting:
                seat.waiting.remove(waiter)
                self._pump(seat)
            self._measure_queues(seat.card.id)

    def _pump(self, seat: Seat) -> None:
        """Grant to those at the head of the queue what fits, in order."""
        if not seat.is_loaded:
            if seat.waiting and seat.work is None and not self._is_closed:
                seat.work = custody.begin(self._load(seat), f"load:{seat.name}")
            return
        while seat.waiting:
            waiter = seat.waiting[0]
            if not seat.fits(waiter.need):
                if waiter.need.measure is not None and waiter.measuring is None:
                    waiter.measuring = custody.begin(self._measure(seat, waiter), "measure")
                return
            seat.waiting.popleft()
            if not waiter.granted.done():
                waiter.granted.set_result(self._grant(seat, waiter.need))

    async def _measure(self, seat: Seat, waiter: Waiter) -> None:
        assert waiter.need.measure is not None
        try:
            waiter.need.tokens = await waiter.need.measure()
        except EngineGone:
            pass  # its upper bound stands, and the next load is measured no better
        except AllodError as error:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)
        except Exception:
            _log.exception("counting the tokens of a request for %s failed", seat.name)
        waiter.need.measure = None
        self._pump(seat)

    def _grant(self, seat: Seat, need: Need) -> Grant:
        assert seat.plan is not None
        need.tokens = min(need.tokens, seat.plan.pool_tokens)
        need.slots = min(need.slots, seat.plan.slots)
        seat.free_slots -= need.slots
        seat.free_tokens -= need.tokens
        seat.running += 1
        seat.idle.clear()
        self._measure_queues(seat.card.id)
        if seat.running == 1:
            self._set_state(seat, "busy")
        return Grant(seat.plan, seat.term)

    def _leave(self, seat: Seat, term: int, need: Need) -> None:
        seat.last_used = time.monotonic()
        if seat.term != term:
            return  # that load has ended, and its accounts with it
        seat.running -= 1
        seat.free_slots += need.slots
        seat.free_tokens += need.tokens
        self._measure_queues(seat.card.id)
        if seat.running == 0:
            seat.idle.set()
            if seat.state == "busy":
                self._set_state(seat, "ready")
            if seat.is_loaded and self._keep_alive(seat) == 0 and not seat.waiting and seat.work is None:
                seat.work = custody.begin(self._unload(seat, "keep_alive"), "unload")
        self._pump(seat)

    # loading

    async def load(
        self,
        card: ModelCard,
        engine: LoadableEngine,
        keep_alive_s: float | None = None,
        pin: bool | None = None,
    ) -> LoadPlan:
        """Load a model for chats now, whoever waits."""
        if pin is not None:
            self._seat(card, engine).pinned = pin
        async with self.lease(card, engine, Need(slots=0, tokens=0), keep_alive_s) as plan:
            return plan

    async def plan(self, card: ModelCard, engine: LoadableEngine, purpose: Purpose = "chat") -> LoadPlan:
        """The plan by which a model is loaded, or would be now."""
        seat = self._seat(card, engine, purpose)
        return seat.plan or await engine.plan(card.id, self.free_bytes(self.residents()), purpose)

    async def _load(self, seat: Seat) -> None:
        began = time.monotonic()
        try:
            if began < seat.retry_at:
                self._refuse(seat, _too_soon(seat, seat.retry_at - began))
                return
            async with self._memory:
                began = time.monotonic()
                await self._load_now(seat)
            self._metrics.model_load.labels(seat.card.id, "ok").observe(time.monotonic() - began)
        except AllodError as error:
            self._metrics.model_load.labels(seat.card.id, error.code).observe(time.monotonic() - began)
            self._load_failed(seat, error)
        except Exception:
            _log.exception("loading %s failed", seat.name)
            self._load_failed(
                seat, LoadFailed(f"{seat.card.id!r} could not be loaded.", fix="See the server's log.")
            )
        finally:
            seat.work = None
            self._pump(seat)

    async def _load_now(self, seat: Seat) -> None:
        resident = self.residents()
        free_bytes = self.free_bytes(resident)
        async with asyncio.timeout(_PLAN_S):
            plan = await seat.engine.plan(seat.card.id, free_bytes, seat.purpose)
        for leaving in plan_eviction(plan, resident, free_bytes):
            await self._evict(self._seats[leaving.plan.model, leaving.plan.purpose], "memory")
        self._set_state(seat, "starting")
        seat.term += 1
        term = seat.term
        began = time.monotonic()
        try:
            await seat.engine.load(plan, lambda reason: self._gone(seat, term, reason))
        except asyncio.CancelledError:
            await self._give_back(seat)
            self._set_state(seat, "stopped")
            raise
        if seat.term != term:
            raise LoadFailed(f"{seat.card.id!r} ended right after it was loaded: {seat.reason}")
        seat.plan = plan
        seat.free_slots, seat.free_tokens, seat.running = plan.slots, plan.pool_tokens, 0
        seat.idle.set()
        seat.last_used = time.monotonic()
        self._set_state(seat, "ready")
        because = f" ({'; '.join(plan.reasons)})" if plan.reasons else ""
        _log.info("loaded %s in %.2f s%s", seat.name, time.monotonic() - began, because)

    def _load_failed(self, seat: Seat, error: AllodError) -> None:
        if isinstance(error, LoadFailed):
            self._count_failure(seat)
        self._set_state(seat, "failed", error.detail)
        _log.warning("loading %s failed: %s", seat.name, error.detail)
        self._refuse(seat, error)

    def _refuse(self, seat: Seat, error: AllodError) -> None:
        while seat.waiting:
            waiter = seat.waiting.popleft()
            if not waiter.granted.done():
                waiter.granted.set_exception(error)

    def _gone(self, seat: Seat, term: int, reason: str) -> None:
        """The engine's process ended by itself: its leases end with errors of their own, the next request reloads."""
        if seat.term != term or seat.state == "stopping":
            return
        _log.warning("%s %s", seat.name, reason)
        self._metrics.restarts.labels(seat.card.id).inc()
        if seat.plan is not None:  # else it is still being loaded, and that failure counts
            self._count_failure(seat)
        self._forget_load(seat)
        self._set_state(seat, "failed", reason)
        self._pump(seat)

    def _count_failure(self, seat: Seat) -> None:
        seat.failures += 1
        seat.retry_at = time.monotonic() + _BACK_OFF_S[min(seat.failures, len(_BACK_OFF_S) - 1)]

    def _forget_load(self, seat: Seat) -> None:
        seat.term += 1
        seat.plan = seat.keep_alive_s = None
        seat.running = seat.free_slots = seat.free_tokens = 0
        seat.idle.set()
        self._measure_queues(seat.card.id)

    # unloading

    async def unload(self, model: ModelId, purpose: Purpose = "chat") -> None:
        """Unload a model once its runs have ended; requests that come meanwhile wait and load it again."""
        seat = self._seats.get((model, purpose))
        if seat is None:
            return
        if seat.work is not None:
            await asyncio.wait([seat.work])
        await self._evict(seat, "asked")

    async def _evict(self, seat: Seat, reason: str) -> None:
        if seat.work is not None and seat.plan is not None:  # it is being unloaded already
            await asyncio.wait([seat.work])
        if seat.is_loaded:
            seat.work = custody.begin(self._unload(seat, reason), "unload")
            await seat.work

    async def _unload(self, seat: Seat, reason: str) -> None:
        self._set_state(seat, "stopping")
        try:
            await seat.idle.wait()
            await self._give_back(seat)
        finally:
            self._forget_load(seat)
            self._set_state(seat, "stopped")
            self._metrics.evictions.labels(reason).inc()
            if seat.work is asyncio.current_task():
                seat.work = None
            self._pump(seat)
        _log.info("unloaded %s: %s", seat.name, reason)

    def _keep_alive(self, seat: Seat) -> float:
        wanted = self.keep_alive_s if seat.keep_alive_s is None else seat.keep_alive_s
        return _FOREVER if seat.pinned or wanted < 0 else wanted

    async def _watch_idle(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for seat in list(self._seats.values()):
                left = self._unloads_in_s(seat)
                if left is not None and left <= 0 and seat.work is None:
                    seat.work = custody.begin(self._unload(seat, "idle"), "unload")

    def _unloads_in_s(self, seat: Seat) -> float | None:
        keep = self._keep_alive(seat)
        if seat.state != "ready" or seat.waiting or keep == _FOREVER:
            return None
        return seat.last_used + keep - time.monotonic()

    # what others may see

    def state(self, model: ModelId, purpose: Purpose = "chat") -> State:
        """The state of a model's worker."""
        seat = self._seats.get((model, purpose))
        return seat.state if seat else "stopped"

    def residents(self) -> list[Resident]:
        """What is in memory, as eviction sees it."""
        return [seat.as_resident(seat.plan) for seat in self._seats.values() if seat.plan is not None]

    def report(self) -> list[dict[str, object]]:
        """All workers that were used, for `allod ps`."""
        return [seat.as_row(self._unloads_in_s(seat)) for seat in self._seats.values()]

    # life

    def start(self) -> None:
        """Begin to look for idle models."""
        self._idle_watch = asyncio.create_task(self._watch_idle(), name="idle models")

    async def close(self) -> None:
        """Unload everything, without waiting for runs."""
        self._is_closed = True
        loaded = [seat for seat in self._seats.values() if seat.plan is not None]
        tasks = [seat.work for seat in self._seats.values() if seat.work is not None]
        if self._idle_watch is not None:
            tasks.append(self._idle_watch)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for seat in self._seats.values():
            self._refuse(seat, _stopping())
        for seat in loaded:
            self._set_state(seat, "stopping")
        await asyncio.gather(*(self._give_back(seat) for seat in loaded))
        for seat in loaded:
            self._set_state(seat, "stopped")

    async def _give_back(self, seat: Seat) -> None:
        """Unload, whatever the engine does."""
        try:
            async with asyncio.timeout(_UNLOAD_S):
                await seat.engine.unload(seat.card.id, seat.purpose)
        except BaseException as error:
            if not is_fault(error):
                raise
            _log.exception("%s was not unloaded in order", seat.name)

    async def drop(self, engine: Engine) -> None:
        """Forget all models of an engine that stops. Its runs have a moment to end."""
        seats = [seat for seat in self._seats.values() if seat.engine is engine]
        for seat in seats:
            del self._seats[seat.card.id, seat.purpose]
            self._refuse(seat, LoadFailed(f"{seat.card.id!r} is gone.", fix="Its extension was stopped."))
            if seat.work is not None:
                seat.work.cancel()
                await asyncio.wait([seat.work])
        for seat in seats:
            if seat.plan is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE_S):
                        await seat.idle.wait()
                self._set_state(seat, "stopping")
                await self._give_back(seat)
                self._set_state(seat, "stopped")

    def _seat(self, card: ModelCard, engine: LoadableEngine, purpose: Purpose = "chat") -> Seat:
        seat = self._seats.get((card.id, purpose))
        if seat is None:
            seat = self._seats[card.id, purpose] = Seat(card, engine, purpose)
        return seat

    def _measure_queues(self, model: ModelId) -> None:
        seats = [seat for (of, _), seat in self._seats.items() if of == model]
        self._metrics.running.labels(model).set(sum(seat.running for seat in seats))
        self._metrics.waiting.labels(model).set(sum(len(seat.waiting) for seat in seats))

    def _set_state(self, seat: Seat, state: State, reason: str = "") -> None:
        seat.state, seat.reason = state, reason
        self._metrics.loaded.set(len({s.card.id for s in self._seats.values() if s.plan is not None}))
        self._events.publish(ModelStateChanged(seat.card.id, state, reason, seat.purpose))


def _stopping() -> LoadFailed:
    return LoadFailed("The server is stopping.", fix="Send the request again once it runs.")


def _too_soon(seat: Seat, wait_s: float) -> LoadFailed:
    return LoadFailed(
        f"{seat.card.id!r} failed {seat.failures} times in a row: {seat.reason}",
        fix=f"Allod tries again in {wait_s:.0f} s; `allod doctor` may know why.",
        retry_after_s=wait_s,
    )
