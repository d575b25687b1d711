"""Who may use which model when: order, accounts, loading, unloading, failure. The engine here only keeps a diary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.kernel.events import EventBus
from allod.kernel.eviction import Resident, taken
from allod.kernel.metrics import Metrics
from allod.kernel.scheduler import Scheduler
from allod.kernel.seats import Need
from allod.sdk.chat import Purpose, Run
from allod.sdk.engine import CPU, DeviceId, LoadableEngine, LoadPlan, ModelCard, ModelId
from allod.sdk.errors import AllodError, ContextTooLong, EngineGone, LoadFailed, ModelTooLarge, QueueFull
from allod.sdk.events import ModelStateChanged
from allod.sdk.stream import ChatStream

_SOON_S = 5
CHAT: Purpose = "chat"
PRIVATE: Purpose = "private"


@dataclass
class DiaryEngine:
    """Loads at once, unless `gate` is closed or `failures` are left."""

    slots: int = 2
    pool_tokens: int = 100
    size_bytes: int = 400
    shared_bytes: int = 0
    name: str = "diary"
    diary: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    sulks: bool = False
    gone: dict[str, Callable[[str], None]] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def models(self) -> Sequence[ModelCard]:
        return []

    def chat(self, run: Run) -> ChatStream:
        raise NotImplementedError

    async def plan(self, model: ModelId, free_bytes: Mapping[DeviceId, int], purpose: Purpose) -> LoadPlan:
        return LoadPlan(
            model,
            {CPU: self.size_bytes},
            self.pool_tokens,
            pool_tokens=self.pool_tokens,
            slots=self.slots,
            purpose=purpose,
            shared_bytes={CPU: self.shared_bytes},
        )

    async def load(self, plan: LoadPlan, gone: Callable[[str], None]) -> None:
        self.diary.append(f"load {_named(plan.model, plan.purpose)}")
        self.gone[_named(plan.model, plan.purpose)] = gone
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)

    async def unload(self, model: ModelId, purpose: Purpose) -> None:
        self.diary.append(f"unload {_named(model, purpose)}")
        if self.sulks:
            raise RuntimeError("/secret/path")

    def memory_bytes(self, model: ModelId, purpose: Purpose) -> int:
        if self.sulks:
            raise RuntimeError("/secret/path")
        return 7


def _named(model: str, purpose: Purpose) -> str:
    return model if purpose == "chat" else f"{model}'"


@dataclass
class Clock:
    """The scheduler's time, which stands still unless a test moves it."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


class Lease:
    """A lease asked for in a task of its own, held until `leave`."""

    def __init__(
        self, house: House, model: str, need: Need, keep_alive_s: float | None, purpose: Purpose
    ) -> None:
        self.need = need
        self.plan: LoadPlan | None = None
        self._leaving = asyncio.Event()
        self._failing: Exception | None = None
        self.task = asyncio.create_task(self._hold(house, model, keep_alive_s, purpose))

    async def _hold(self, house: House, model: str, keep_alive_s: float | None, purpose: Purpose) -> None:
        lease = house.scheduler.lease(card(model), house.engine, self.need, keep_alive_s, purpose)
        async with lease as plan:
            self.plan = plan
            await self._leaving.wait()
            if self._failing is not None:
                raise self._failing

    @property
    def is_held(self) -> bool:
        return self.plan is not None and not self.task.done()

    async def leave(self, failing: Exception | None = None) -> None:
        self._failing = failing
        self._leaving.set()
        await asyncio.wait([self.task], timeout=_SOON_S)
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task], timeout=_SOON_S)
        await settle()

    async def error(self) -> BaseException | None:
        await asyncio.wait([self.task], timeout=_SOON_S)
        return self.task.exception()


class House:
    """A scheduler with `memory_bytes` for models, its engine, and the states that it told of."""

    def __init__(
        self,
        engine: DiaryEngine,
        *,
        memory_bytes: int = 1000,
        max_waiting: int = 128,
        keep_alive_s: float = 60,
    ) -> None:
        self.engine = engine
        self.states: list[str] = []
        self.has_stopped_one = asyncio.Event()
        self.bus = EventBus()
        self.events = self.bus.of("test")
        self.metrics = Metrics()

        def free(resident: Sequence[Resident]) -> Mapping[DeviceId, int]:
            return {CPU: memory_bytes - taken([r.plan for r in resident], CPU)}

        async def note(event: ModelStateChanged) -> None:
            self.states.append(event.state + ("'" if event.purpose == "private" else ""))
            if event.state == "stopped":
                self.has_stopped_one.set()

        self.events.subscribe(ModelStateChanged, note)
        self.scheduler = Scheduler(
            free_bytes=free,
            events=self.events,
            metrics=self.metrics,
            max_waiting=max_waiting,
            keep_alive_s=keep_alive_s,
        )

    @property
    def diary(self) -> list[str]:
        return self.engine.diary

    async def ask(
        self,
        model: str = "a",
        *,
        slots: int = 1,
        tokens: int = 10,
        measure: Callable[[], Awaitable[int]] | None = None,
        keep_alive_s: float | None = None,
        purpose: Purpose = "chat",
    ) -> Lease:
        """Ask for a lease, and give the scheduler time for all that it can do at once."""
        lease = Lease(self, model, Need(slots, tokens, measure), keep_alive_s, purpose)
        await settle()
        return lease

    async def use(
        self, model: str = "a", *, keep_alive_s: float | None = None, purpose: Purpose = "chat"
    ) -> None:
        await (await self.ask(model, keep_alive_s=keep_alive_s, purpose=purpose)).leave()

    def row(self, model: str = "a", purpose: Purpose = "chat") -> dict[str, object]:
        wanted = (model, purpose)
        (row,) = [row for row in self.scheduler.report() if (row["model"], row["purpose"]) == wanted]
        return row

    def state(self, model: str = "a", purpose: Purpose = "chat") -> str:
        return self.scheduler.state(ModelId(model), purpose)


@asynccontextmanager
async def living(
    engine: DiaryEngine | None = None, *, memory_bytes: int = 1000, max_waiting: int = 128
) -> AsyncIterator[House]:
    house = House(engine or DiaryEngine(), memory_bytes=memory_bytes, max_waiting=max_waiting)
    try:
        yield house
    finally:
        await house.scheduler.close()
        await house.bus.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with living() as house:
        yield house


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("allod.kernel.scheduler.time", clock)
    return clock


def card(model: str) -> ModelCard:
    return ModelCard(ModelId(model), "diary", model, context_tokens=100, size_bytes=400)


async def settle() -> None:
    """Let all tasks go as far as they can without waiting for anything."""
    for _ in range(30):
        await asyncio.sleep(0)


def test_the_diary_engine_is_a_loadable_engine() -> None:
    assert isinstance(DiaryEngine(), LoadableEngine)


# leases


async def test_a_lease_loads_the_model_and_hands_over_its_plan(house: House) -> None:
    lease = await house.ask("a")
    assert lease.plan == await house.engine.plan(ModelId("a"), {}, "chat")
    assert house.diary == ["load a"]
    assert house.states == ["starting", "ready", "busy"]
    await lease.leave()
    assert house.states[3:] == ["ready"]


async def test_fifty_first_requests_load_once(house: House) -> None:
    house.engine.gate.clear()
    leases = [await house.ask("a", tokens=1) for _ in range(50)]
    house.engine.gate.set()
    for lease in leases:
        await lease.leave()
    assert house.diary == ["load a"]
    assert not any([await lease.error() for lease in leases])


async def test_a_request_waits_for_a_slot(house: House) -> None:
    first, second, third = [await house.ask() for _ in range(3)]
    assert (first.is_held, second.is_held, third.is_held) == (True, True, False)
    await first.leave()
    assert third.is_held


async def test_two_leases_that_together_exceed_the_pool_take_turns(house: House) -> None:
    first, second = await house.ask(tokens=60), await house.ask(tokens=60)
    assert (first.is_held, second.is_held) == (True, False)
    await first.leave()
    assert second.is_held


async def test_a_need_beyond_the_pool_takes_the_whole_pool(house: House) -> None:
    first, second = await house.ask(tokens=1000), await house.ask(tokens=1)
    assert (first.is_held, second.is_held) == (True, False)
    await first.leave()
    assert second.is_held


async def test_a_small_request_does_not_overtake_a_large_one(house: House) -> None:
    holding = await house.ask(tokens=50)
    large, small = await house.ask(tokens=60), await house.ask(tokens=1)
    assert (large.is_held, small.is_held) == (False, False)
    await holding.leave()
    assert (large.is_held, small.is_held) == (True, True)


async def test_a_newcomer_does_not_overtake_those_who_wait(house: House) -> None:
    holding = await house.ask(tokens=50)
    waiting = await house.ask(tokens=60)
    newcomer = await house.ask(tokens=50)
    assert not newcomer.is_held
    await waiting.cancel()
    assert newcomer.is_held
    await holding.leave()


async def test_one_model_does_not_wait_for_another(house: House) -> None:
    await house.ask("a", tokens=100)
    assert (await house.ask("b", tokens=100)).is_held


@dataclass
class Scale:
    """Measures a need as `tokens`, or raises, and counts how often it was asked."""

    tokens: int = 0
    error: AllodError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def measure(self) -> int:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.tokens


async def test_nothing_is_measured_where_the_bound_fits(house: House) -> None:
    scale = Scale()
    assert (await house.ask(tokens=90, measure=scale.measure)).is_held
    assert scale.asked == 0


async def test_a_bound_that_does_not_fit_is_measured_once_and_the_exact_number_counts(house: House) -> None:
    await house.ask(tokens=60)
    scale = Scale(tokens=40)
    lease = await house.ask(tokens=90, measure=scale.measure)
    assert not lease.is_held
    scale.gate.set()
    await settle()
    assert (lease.is_held, scale.asked) == (True, 1)
    assert not (await house.ask(tokens=1)).is_held  # 60 + 40 are the whole pool


async def test_only_the_first_in_the_queue_is_measured(house: House) -> None:
    holding = await house.ask(tokens=60)
    first, second = Scale(tokens=90), Scale(tokens=90)
    await house.ask(tokens=99, measure=first.measure)
    await house.ask(tokens=99, measure=second.measure)
    first.gate.set()
    await settle()
    assert (first.asked, second.asked) == (1, 0)
    await holding.leave()
    assert (first.asked, second.asked) == (1, 1)


async def test_an_error_while_measuring_goes_to_that_request_alone(house: House) -> None:
    await house.ask(tokens=60)
    scale = Scale(error=ContextTooLong("too long"))
    scale.gate.set()
    lease = await house.ask(tokens=90, measure=scale.measure)
    assert await lease.error() is scale.error
    assert (await house.ask(tokens=40)).is_held


async def test_leaving_while_being_measured_lets_the_next_one_in(house: House) -> None:
    await house.ask(tokens=60)
    lease = await house.ask(tokens=90, measure=Scale().measure)
    after = await house.ask(tokens=40)
    await lease.cancel()
    assert after.is_held


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async with living(DiaryEngine(slots=1), max_waiting=2) as house:
        held, *waiting = [await house.ask() for _ in range(3)]
        error = await (await house.ask()).error()
        assert isinstance(error, QueueFull)
        assert error.retry_after_s is not None and error.retry_after_s > 0
        assert "2 requests already wait for 'a'" in error.detail
        await waiting[0].cancel()
        await house.ask()
        await held.leave()
        assert waiting[1].is_held


async def test_who_leaves_while_waiting_frees_the_place(house: House) -> None:
    holding = await house.ask(tokens=100)
    leaving, staying = await house.ask(), await house.ask()
    await leaving.cancel()
    assert house.row()["waiting"] == 1
    await holding.leave()
    assert staying.is_held
    await staying.leave()
    assert (await house.ask(tokens=100)).is_held  # nothing is still reserved


async def test_who_leaves_in_the_instant_of_the_grant_gives_it_back(house: House) -> None:
    holding = await house.ask(tokens=100)
    lease = await house.ask(tokens=100)
    holding._leaving.set()
    await asyncio.sleep(0)
    assert (house.row()["waiting"], lease.plan) == (0, None)  # granted, but not yet told
    await lease.cancel()
    assert (await house.ask(tokens=100)).is_held


async def test_a_request_that_fails_gives_its_place_back(house: House) -> None:
    lease = await house.ask(tokens=100)
    await lease.leave(failing=EngineGone("gone"))
    assert (await house.ask(tokens=100)).is_held


_Steps = st.lists(
    st.tuples(st.sampled_from(["ask", "leave", "cancel"]), st.integers(0, 9), st.integers(1, 3)), max_size=25
)


@settings(deadline=None, max_examples=60)
@given(_Steps)
def test_slots_and_tokens_are_never_given_twice_and_always_come_back(
    steps: list[tuple[str, int, int]],
) -> None:
    async def play() -> None:
        async with living(DiaryEngine(slots=3)) as house:
            leases: list[Lease] = []
            for act, which, size in steps:
                if act == "ask":
                    leases.append(await house.ask(slots=size, tokens=12 * which))
                elif leases:
                    lease = leases.pop(which % len(leases))
                    await (lease.leave() if act == "leave" and lease.is_held else lease.cancel())
                held = [lease for lease in leases if lease.is_held]
                assert sum(lease.need.slots for lease in held) <= 3
                assert sum(lease.need.tokens for lease in held) <= 100
                order = [lease.is_held for lease in leases]
                assert order == sorted(order, reverse=True)  # whoever came first is in first
            for lease in leases:
                await lease.cancel()
            assert (await house.ask(slots=3, tokens=100)).is_held

    asyncio.run(play())


# memory


async def test_a_second_model_stays_beside_the_first_where_both_fit(house: House) -> None:
    await house.use("a")
    await house.use("b")
    assert house.diary == ["load a", "load b"]


async def test_the_least_recently_used_makes_room(house: House, clock: Clock) -> None:
    for model in ("a", "b", "a"):
        clock.now += 1
        await house.use(model)
    await house.use("c")
    assert house.diary == ["load a", "load b", "unload b", "load c"]
    assert (house.state("a"), house.state("b"), house.state("c")) == ("ready", "stopped", "ready")


async def test_a_pinned_model_never_makes_room(house: House) -> None:
    await house.scheduler.load(card("a"), house.engine, pin=True)
    await house.use("b")
    await house.use("c")
    assert house.diary == ["load a", "load b", "unload b", "load c"]


async def test_where_everything_is_pinned_the_next_model_is_too_large(house: House) -> None:
    for model in ("a", "b"):
        await house.scheduler.load(card(model), house.engine, pin=True)
    lease = await house.ask("c")
    assert isinstance(await lease.error(), ModelTooLarge)
    assert (house.state("c"), house.diary) == ("failed", ["load a", "load b"])
    await house.scheduler.load(card("b"), house.engine, pin=False)
    assert (await house.ask("c")).is_held  # it is no failure that has to be waited out


async def test_a_busy_model_makes_room_only_when_its_run_has_ended(house: House) -> None:
    busy = [await house.ask("a"), await house.ask("b")]
    wanting = await house.ask("c")
    assert house.diary == ["load a", "load b"]
    await busy[0].leave()
    assert house.diary == ["load a", "load b", "unload a", "load c"]
    assert wanting.is_held and busy[1].is_held


async def test_who_asks_for_a_model_that_is_leaving_waits_until_it_is_back(house: House) -> None:
    busy = [await house.ask("a"), await house.ask("b")]
    wanting = await house.ask("c")
    again = await house.ask("a")
    assert not again.is_held
    for lease in (*busy, wanting):
        await lease.leave()
    assert again.is_held
    assert house.diary[:4] == ["load a", "load b", "unload a", "load c"]


async def test_a_model_that_left_by_itself_while_room_was_made_is_not_waited_for(house: House) -> None:
    busy, leaving = await house.ask("a"), await house.ask("b", keep_alive_s=0)
    house.engine.size_bytes = 900  # both have to leave
    wanting = await house.ask("c")
    await leaving.leave()
    back = await house.ask("b")  # waits for the memory that is being made free
    await busy.leave()
    assert (wanting.is_held, back.is_held) == (True, False)
    await wanting.leave()
    assert back.is_held


# a worker by purpose


async def test_a_private_run_has_a_worker_of_its_own_and_does_not_wait_for_the_shared_one(
    house: House,
) -> None:
    shared = await house.ask(tokens=100)
    private = await house.ask(tokens=100, purpose="private")
    assert (shared.is_held, private.is_held) == (True, True)
    assert house.diary == ["load a", "load a'"]
    assert house.states == ["starting", "ready", "busy", "starting'", "ready'", "busy'"]
    assert private.plan is not None
    assert private.plan.purpose == "private"
    await shared.leave()
    await private.leave()


async def test_unloading_the_private_worker_leaves_the_shared_one_and_the_other_way_round(
    house: House,
) -> None:
    for purpose in (CHAT, PRIVATE):
        await house.use(purpose=purpose)
    await house.scheduler.unload(ModelId("a"), PRIVATE)
    assert (house.state(), house.state(purpose=PRIVATE)) == ("ready", "stopped")
    await house.use(purpose=PRIVATE)
    await house.scheduler.unload(ModelId("a"))
    assert (house.state(), house.state(purpose=PRIVATE)) == ("stopped", "ready")
    assert house.diary == ["load a", "load a'", "unload a'", "load a'", "unload a"]


async def test_loading_by_hand_and_pinning_are_for_the_shared_worker(house: House) -> None:
    await house.scheduler.load(card("a"), house.engine, pin=True)
    await house.use(purpose=PRIVATE)
    assert (house.row()["pinned"], house.row(purpose=PRIVATE)["pinned"]) == (True, False)
    assert house.row()["unloads_in_s"] is None
    assert house.row(purpose=PRIVATE)["unloads_in_s"] is not None


async def test_each_worker_has_its_own_keep_alive(house: House) -> None:
    await house.use()
    lease = await house.ask(keep_alive_s=0, purpose=PRIVATE)
    await lease.leave()
    assert house.diary == ["load a", "load a'", "unload a'"]


async def test_weights_that_both_map_are_planned_once(house: House) -> None:
    house.engine.size_bytes, house.engine.shared_bytes = 700, 500  # of 1000
    await house.use()
    await house.use(purpose=PRIVATE)
    assert house.diary == ["load a", "load a'"]
    assert house.row(purpose=PRIVATE)["planned_bytes"] == 700
    assert house.row(purpose=PRIVATE)["shared_bytes"] == 500


async def test_where_both_do_not_fit_the_idle_shared_worker_makes_room(house: House) -> None:
    house.engine.size_bytes = 700
    await house.use()
    await house.use(purpose=PRIVATE)
    assert house.diary == ["load a", "unload a", "load a'"]


async def test_a_private_worker_that_ends_by_itself_is_no_news_of_the_shared_one(house: House) -> None:
    for purpose in (CHAT, PRIVATE):
        await house.use(purpose=purpose)
    house.engine.gone["a'"]("gone")
    assert (house.state(), house.state(purpose=PRIVATE)) == ("ready", "failed")
    await house.use(purpose=PRIVATE)
    assert house.diary == ["load a", "load a'", "load a'"]


async def test_the_numbers_of_a_model_are_those_of_all_its_workers(house: House) -> None:
    leases = [await house.ask(tokens=100, purpose=purpose) for purpose in (CHAT, PRIVATE) for _ in range(2)]
    numbers = house.metrics
    assert numbers.running.labels("a")._value.get() == 2
    assert numbers.waiting.labels("a")._value.get() == 2
    assert numbers.loaded._value.get() == 1
    for lease in leases:
        await lease.leave()
    assert numbers.running.labels("a")._value.get() == numbers.waiting.labels("a")._value.get() == 0


async def test_closing_ends_both(house: House) -> None:
    for purpose in (CHAT, PRIVATE):
        await house.use(purpose=purpose)
    await house.scheduler.close()
    assert sorted(house.diary[2:]) == ["unload a", "unload a'"]


# unloading


async def test_keep_alive_of_zero_unloads_at_the_end_of_the_run(house: House) -> None:
    await house.use(keep_alive_s=0)
    assert house.diary == ["load a", "unload a"]
    assert house.state() == "stopped"


async def test_keep_alive_of_zero_waits_for_the_others(house: House) -> None:
    first, second = await house.ask(keep_alive_s=0), await house.ask(keep_alive_s=0)
    await first.leave()
    assert house.diary == ["load a"]
    await second.leave()
    assert house.diary == ["load a", "unload a"]


async def test_an_idle_model_is_unloaded_after_its_time(house: House, clock: Clock) -> None:
    await house.use()
    clock.now += 59
    assert house.row()["unloads_in_s"] == 1.0
    clock.now += 1
    house.scheduler.start()
    await asyncio.wait_for(house.has_stopped_one.wait(), _SOON_S)
    assert house.diary == ["load a", "unload a"]


async def test_a_negative_keep_alive_keeps_a_model_for_ever(house: House, clock: Clock) -> None:
    await house.use("forever", keep_alive_s=-1)
    await house.use("a")
    clock.now += 1000
    house.scheduler.start()
    await asyncio.wait_for(house.has_stopped_one.wait(), _SOON_S)
    assert house.diary == ["load forever", "load a", "unload a"]
    assert house.row("forever")["unloads_in_s"] is None


async def test_unloading_waits_for_runs_and_those_who_come_meanwhile_load_it_again(house: House) -> None:
    lease = await house.ask()
    unloading = asyncio.create_task(house.scheduler.unload(ModelId("a")))
    await settle()
    late = await house.ask()
    assert (house.state(), house.diary, late.is_held) == ("stopping", ["load a"], False)
    await lease.leave()
    await unloading
    assert house.diary == ["load a", "unload a", "load a"]
    assert late.is_held


async def test_unloading_what_was_never_loaded_does_nothing(house: House) -> None:
    await house.scheduler.unload(ModelId("none"))
    assert house.diary == []


# failure


async def test_all_who_wait_for_a_failed_load_hear_why(house: House) -> None:
    house.engine.failures = [LoadFailed("The file is damaged.")]
    house.engine.gate.clear()
    leases = [await house.ask(), await house.ask()]
    house.engine.gate.set()
    for lease in leases:
        error = await lease.error()
        assert isinstance(error, LoadFailed)
        assert error.detail == "The file is damaged."
    assert (house.state(), house.row()["reason"]) == ("failed", "The file is damaged.")


async def test_the_words_of_an_unforeseen_error_are_not_passed_on(house: House) -> None:
    house.engine.failures = [RuntimeError("/secret/path")]
    error = await (await house.ask()).error()
    assert isinstance(error, LoadFailed)
    assert "/secret/path" not in error.message


async def test_an_engine_that_fails_to_unload_stops_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.engine.sulks = True
    await (await house.ask("a")).leave()
    assert house.row()["memory_bytes"] == 0
    house.engine.size_bytes = 900  # so the next one needs all there is
    assert (await house.ask("b")).is_held
    assert house.diary == ["load a", "unload a", "load b"]
    assert house.state() == "stopped"
    assert "a was not unloaded in order" in caplog.text


async def test_repeated_failures_are_waited_out(house: House, clock: Clock) -> None:
    house.engine.failures = [LoadFailed("no"), LoadFailed("no")]
    for _ in range(2):  # the first retry is at once
        await (await house.ask()).error()
    error = await (await house.ask()).error()
    assert isinstance(error, LoadFailed)
    assert error.retry_after_s == 1.0
    assert "failed 2 times in a row: no" in error.detail
    assert house.diary == ["load a", "load a"]
    clock.now += 1
    lease = await house.ask()
    assert lease.is_held
    await lease.leave()

    house.engine.failures = [LoadFailed("no")]  # a run that went well has wiped out the earlier failures
    await house.scheduler.unload(ModelId("a"))
    await (await house.ask()).error()
    assert (await house.ask()).is_held


async def test_a_worker_that_ends_by_itself_is_loaded_again_for_the_next_request(house: House) -> None:
    lease = await house.ask(tokens=100)
    house.engine.gone["a"]("its process was ended by SIGKILL")
    assert (house.state(), house.row()["reason"]) == ("failed", "its process was ended by SIGKILL")
    second = await house.ask(tokens=100)
    assert second.is_held
    await lease.leave(failing=EngineGone("gone"))
    assert not (await house.ask(tokens=1)).is_held  # the late return was not counted for the new load
    assert house.diary == ["load a", "load a"]


async def test_those_who_wait_while_a_worker_ends_are_served_by_the_next(house: House) -> None:
    await house.ask(tokens=100)
    waiting = await house.ask(tokens=100)
    house.engine.gone["a"]("gone")
    await settle()
    assert waiting.is_held
    assert house.metrics.restarts.labels("a")._value.get() == 1


async def test_late_news_of_an_earlier_worker_change_nothing(house: House) -> None:
    await house.use()
    late = house.engine.gone["a"]
    await house.scheduler.unload(ModelId("a"))
    lease = await house.ask()
    late("gone")
    assert (lease.is_held, house.state()) == (True, "busy")


async def test_a_worker_that_ends_while_its_model_is_leaving_is_no_failure(house: House) -> None:
    lease = await house.ask()
    unloading = asyncio.create_task(house.scheduler.unload(ModelId("a")))
    await settle()
    house.engine.gone["a"]("gone")
    await lease.leave(failing=EngineGone("gone"))
    await unloading
    assert (house.state(), house.row()["reason"]) == ("stopped", "")


async def test_a_worker_that_ends_in_the_moment_of_loading_fails_the_load(house: House) -> None:
    house.engine.gate.clear()
    lease = await house.ask()
    house.engine.gone["a"]("gone")
    house.engine.gate.set()
    assert isinstance(await lease.error(), LoadFailed)
    assert house.state() == "failed"


# what others see, and the end


async def test_asking_for_a_plan_loads_nothing(house: House) -> None:
    plan = await house.scheduler.plan(card("a"), house.engine)
    assert (plan.model, house.diary) == ("a", [])


async def test_the_report_has_what_was_used(house: House) -> None:
    lease = await house.ask(tokens=100)
    waiting = await house.ask(tokens=100)
    row = house.row()
    assert (row["state"], row["running"], row["waiting"], row["pinned"]) == ("busy", 1, 1, False)
    assert (row["pool_tokens"], row["slots"], row["planned_bytes"], row["memory_bytes"]) == (100, 2, 400, 7)
    await lease.leave()
    await waiting.leave()
    assert house.row()["unloads_in_s"] is not None


async def test_closing_unloads_without_waiting_for_runs(house: House) -> None:
    lease = await house.ask()
    await house.scheduler.close()
    assert house.diary == ["load a", "unload a"]
    await lease.leave()


async def test_closing_ends_a_load_in_the_middle(house: House) -> None:
    house.engine.gate.clear()
    lease = await house.ask()
    await house.scheduler.close()
    assert house.diary == ["load a", "unload a"]
    await lease.cancel()


async def test_closing_unloads_a_model_that_was_about_to_leave(house: House) -> None:
    lease = await house.ask()
    unloading = asyncio.create_task(house.scheduler.unload(ModelId("a")))
    await settle()
    await house.scheduler.close()
    await asyncio.wait([unloading])
    assert house.diary == ["load a", "unload a"]
    await lease.leave()


async def test_closing_tells_those_who_wait(house: House) -> None:
    lease = await house.ask(tokens=100)
    waiting = await house.ask()
    await house.scheduler.close()
    assert isinstance(await waiting.error(), LoadFailed)
    await lease.leave()


async def test_closing_tells_those_who_wait_for_a_load(house: House) -> None:
    house.engine.gate.clear()
    waiting = await house.ask()
    await house.scheduler.close()
    assert isinstance(await waiting.error(), LoadFailed)
