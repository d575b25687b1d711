"""Jobs: kept before they run, in line, ended exactly once, gone on with after whatever came between."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import Connection, select, text, update

from allod.kernel import jobs as rooms
from allod.kernel.events import EventBus
from allod.kernel.jobs import JobRunner
from allod.kernel.schema import jobs
from allod.kernel.storage import Database
from allod.sdk.errors import BadRequest, Conflict, EngineFailed, ExtensionFailed, NotFound
from allod.sdk.events import Event, JobEnded, JobProgressed
from allod.sdk.jobs import Job, JobId, JobKind, JobState, JobStatus
from tests.unit.kernel.notes_store import open_database, recorded, started_bus, store

ADD_LINE = text("INSERT INTO notes__lines (text) VALUES (:text)")
NO_SPACE, SPACE = "PRAGMA max_page_count=1", "PRAGMA max_page_count=99999"
LINES = text("SELECT text FROM notes__lines ORDER BY id")


class Walk(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = Field(default=1, ge=0)
    word: str = ""

    @field_validator("word")
    @classmethod
    def _no_secret(cls, word: str) -> str:
        if word.startswith("secret"):
            raise ValueError(f"{word} is not wanted")
        return word


Body = Callable[[Job[Walk]], Any]


def add_line(connection: Connection, text: str) -> None:
    connection.execute(ADD_LINE, {"text": text})


async def walk(job: Job[Walk]) -> Mapping[str, Any]:
    """Take each step once, with a line of its own in the same transaction."""
    for step in range(job.state.get("step", 0), job.parameters.steps):
        await job.save({"step": step + 1}, partial(add_line, text=f"{job.parameters.word}{step}"))
        job.progress(step + 1, job.parameters.steps)
    return {"steps": job.parameters.steps}


class Kind(JobKind[Walk]):
    """A kind whose body is the test's."""

    title = "Walk"
    parameters = Walk

    def __init__(self, body: Body = walk, *, name: str = "walk", at_once: int = 1) -> None:
        self.name, self._body = name, body  # type: ignore[misc]
        self.at_once = at_once  # type: ignore[misc]

    async def run(self, job: Job[Walk]) -> Mapping[str, Any] | None:
        result: Mapping[str, Any] | None = await self._body(job)
        return result


class Gate:
    """A body that takes a step, says so, and waits until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.ran: list[JobId] = []
        self._running = asyncio.Event()

    async def __call__(self, job: Job[Walk]) -> None:
        self.ran.append(job.id)
        self._running.set()
        await self.may_go_on.wait()

    async def until(self, number: int) -> None:
        async with asyncio.timeout(20):
            while len(self.ran) < number:
                self._running.clear()
                await self._running.wait()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as database:
        yield database


@asynccontextmanager
async def running(database: Database, *kinds: JobKind[Any]) -> AsyncIterator[JobRunner]:
    """A runner where the extension `notes` has these kinds."""
    async with started_bus(database) as bus:
        runner = JobRunner(database, bus)
        if kinds:
            await runner.register("notes", kinds)
        try:
            yield runner
        finally:
            await runner.close()


async def until(runner: JobRunner, id: JobId, *states: JobState) -> JobStatus:
    async with asyncio.timeout(20), aclosing(runner.watch(id)) as watched:
        async for status in watched:
            if status.state in states or (not states and status.has_ended):
                return status
    raise AssertionError(f"it ended otherwise: {status}")


async def lines(database: Database) -> list[str]:
    return await database.read(lambda connection: list(connection.scalars(LINES)))


async def ends(database: Database) -> list[tuple[str, str]]:
    """Id and state of each end in the outbox."""
    told = [json.loads(row[2]) for row in await recorded(database) if row[1] == "JobEnded"]
    return [(each["job"], each["state"]) for each in told]


async def crash(folder: Path, *kinds: JobKind[Any], until_: Callable[[JobRunner], Any]) -> Database:
    """Run jobs in a store of their own until `until_`, then leave everything as a killed server does.

    Gives the store that was open, for the test to close.
    """
    database = open_database(folder)
    bus = EventBus(database)
    await bus.start()
    runner = JobRunner(database, bus)
    await runner.register("notes", kinds)
    await until_(runner)
    return database


# to the end


async def test_a_job_runs_to_its_end_once(database: Database) -> None:
    heard: asyncio.Queue[Event] = asyncio.Queue()
    async with started_bus(database) as bus:
        bus.of("other").subscribe(JobEnded, heard.put)
        runner = JobRunner(database, bus)
        await runner.register("notes", [Kind()])
        own = runner.of("notes")
        id = await own.start("walk", Walk(steps=3, word="w"))
        status = await until(runner, id)
        assert await asyncio.wait_for(heard.get(), 20) == JobEnded(id, "walk", "done")
        assert heard.empty()
        await runner.close()
    assert (status.state, status.result, status.title) == ("done", {"steps": 3}, "Walk")
    assert (status.done, status.total, status.attempts, status.error) == (3, 3, 0, "")
    assert await lines(database) == ["w0", "w1", "w2"]
    assert await ends(database) == [(id, "done")]
    assert (await recorded(database))[0][0] == "notes"


async def test_no_result_is_a_result(database: Database) -> None:
    async def nothing(job: Job[Walk]) -> None:
        return None

    async with running(database, Kind(nothing)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        assert (await until(runner, id)).result is None


async def test_they_run_in_the_order_in_which_they_were_asked_for(database: Database) -> None:
    gate = Gate()
    async with running(database, Kind(gate)) as runner:
        ids = [await runner.of("notes").start("walk", Walk()) for _ in range(4)]
        await gate.until(1)
        assert [status.state for status in await runner.all()] == ["queued", "queued", "queued", "running"]
        assert [status.id for status in await runner.all()] == ids[::-1]
        gate.may_go_on.set()
        await until(runner, ids[-1])
    assert gate.ran == ids


async def test_as_many_side_by_side_as_their_kind_allows(database: Database) -> None:
    two, one = Gate(), Gate()
    async with running(database, Kind(two, name="two", at_once=2), Kind(one, name="one")) as runner:
        for kind in ("two", "one") * 3:
            await runner.of("notes").start(kind, Walk())
        await two.until(2)
        await one.until(1)
        states = [status.state for status in await runner.all()]
        assert (states.count("running"), len(two.ran), len(one.ran)) == (3, 2, 1)
        two.may_go_on.set()
        await two.until(3)
        assert len(one.ran) == 1


async def test_they_are_listed_in_pages(database: Database) -> None:
    gate = Gate()
    async with running(database, Kind(gate)) as runner:
        ids = [await runner.of("notes").start("walk", Walk()) for _ in range(5)]
        first = await runner.all(limit=2)
        second = await runner.all("notes", limit=2, before=first[-1].id)
        assert [status.id for status in (*first, *second)] == ids[:0:-1]
        assert await runner.all("other", limit=2) == []
        with pytest.raises(NotFound):
            await runner.all(before=JobId("none"))
        with pytest.raises(NotFound):
            await runner.all("other", before=ids[0])


# how it fails


async def fail_with_fix(job: Job[Walk]) -> None:
    raise EngineFailed("The engine said no.", fix="Ask another one.")


async def fail_badly(job: Job[Walk]) -> None:
    raise LookupError("secret words of a message")


async def cancel_itself(job: Job[Walk]) -> None:
    raise asyncio.CancelledError


async def give_an_object(job: Job[Walk]) -> Mapping[str, Any]:
    return {"what": object()}


async def give_a_list(job: Job[Walk]) -> Any:
    return [1, 2]


async def give_no_number(job: Job[Walk]) -> Mapping[str, Any]:
    return {"what": float("nan")}


async def save_an_object(job: Job[Walk]) -> None:
    await job.save({"what": object()})


async def tell_no_number(job: Job[Walk]) -> None:
    job.progress(float("nan"))


@pytest.mark.parametrize(
    ("body", "error", "fix"),
    [
        (fail_with_fix, "The engine said no.", "Ask another one."),
        (fail_badly, "LookupError in notes", "The server's log says where."),
        (cancel_itself, "CancelledError in notes", "The server's log says where."),
        (give_an_object, "The result of a job 'walk' of 'notes' is not a JSON object.", "Report it"),
        (give_a_list, "The result of a job 'walk' of 'notes' is not a JSON object.", "Report it"),
        (give_no_number, "The result of a job 'walk' of 'notes' is not a JSON object.", "Report it"),
        (save_an_object, "The saved state of a job 'walk' of 'notes' is not a JSON object.", "Report it"),
        (tell_no_number, "ValueError in notes", "The server's log says where."),
    ],
)
async def test_a_failed_job_says_why(database: Database, body: Body, error: str, fix: str) -> None:
    async with running(database, Kind(body)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        status = await until(runner, id)
    assert (status.state, status.error, status.result) == ("failed", error, None)
    assert status.fix.startswith(fix)
    assert await ends(database) == [(id, "failed")]


async def test_strange_characters_do_not_hold_up_an_end(database: Database) -> None:
    async def fail(job: Job[Walk]) -> None:
        job.progress(1, 2, "half \udcff")
        raise EngineFailed("half \udcff", fix="\udcff {id}")

    async with running(database, Kind(fail)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        status = await until(runner, id)
    assert (status.note, status.error, status.fix) == ("half ?", "half ?", "? {id}")


async def test_what_was_asked_for_in_another_version_fails_the_job(database: Database) -> None:
    async with running(database) as runner:
        id = await runner.of("notes").start("walk", Walk())
        await database.write(
            lambda connection: connection.execute(update(jobs).values(parameters='{"x": 1}'))
        )
        await runner.register("notes", [Kind()])
        status = await until(runner, id)
    assert (status.state, status.error) == (
        "failed",
        "This version of 'notes' cannot read what the job was asked for.",
    )


# saving


async def test_a_save_is_all_or_nothing(database: Database) -> None:
    async def save_half(job: Job[Walk]) -> None:
        def fail(connection: Connection) -> None:
            connection.execute(ADD_LINE, {"text": "half"})
            raise LookupError

        await job.save({"step": 1})
        assert job.state == {"step": 1}
        await job.save({"step": 2}, fail)

    async with running(database, Kind(save_half)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        assert (await until(runner, id)).error == "LookupError in notes"
    assert await lines(database) == []
    assert await database.read(lambda c: c.scalar(select(jobs.c.state))) == '{"step": 1}'


async def test_what_is_saved_along_has_the_extension_s_rights_only(database: Database) -> None:
    async def reach(job: Job[Walk]) -> None:
        await job.save(
            {"step": 1}, lambda connection: connection.execute(text("DELETE FROM kernel__secrets"))
        )

    async with running(database, Kind(reach)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        status = await until(runner, id)
    assert status.error.startswith("The extension 'notes' wanted what is not its own in the store")
    assert await database.read(lambda c: c.scalar(select(jobs.c.state))) == "{}"


async def test_a_job_that_is_tried_again_goes_on_from_what_it_saved(database: Database) -> None:
    tries = 0

    async def stumble(job: Job[Walk]) -> Mapping[str, Any]:
        nonlocal tries
        tries += 1
        if tries == 1:
            await job.save({"step": 2}, partial(add_line, text="0 and 1"))
            raise LookupError
        return await walk(job)

    async with running(database, Kind(stumble)) as runner:
        id = await runner.of("notes").start("walk", Walk(steps=4))
        assert (await until(runner, id)).state == "failed"
        assert (await runner.resume(id)).state == "queued"
        status = await until(runner, id)
    assert (status.state, status.error, status.fix) == ("done", "", "")
    assert await lines(database) == ["0 and 1", "2", "3"]
    assert await ends(database) == [(id, "failed"), (id, "done")]


# progress


async def test_progress_is_told_now_and_then_and_the_last_value_always(database: Database) -> None:
    told: list[JobProgressed] = []
    writes = 0

    async def hear(event: JobProgressed) -> None:
        told.append(event)
        if event.note == "last":
            has_told_last.set()

    def written() -> None:
        nonlocal writes
        writes += 1

    async def count(job: Job[Walk]) -> None:
        began = time.monotonic()
        number = 0
        while time.monotonic() < began + 1.3:
            number += 1
            job.progress(number, 0, f"line {number}")
            await asyncio.sleep(0)
        await asyncio.to_thread(job.progress, -1, 0, "last")
        await gate.wait()

    gate, has_told_last = asyncio.Event(), asyncio.Event()
    async with started_bus(database) as bus:
        bus.of("other").subscribe(JobProgressed, hear)
        runner = JobRunner(database, bus)
        await runner.register("notes", [Kind(count)])
        id = await runner.of("notes").start("walk", Walk())
        await until(runner, id, "running")
        database.after_write.append(written)
        await asyncio.wait_for(has_told_last.wait(), 20)
        status = await runner.get(id)
        seen = len(told)
        kept = writes
        gate.set()
        await until(runner, id)
        await runner.close()
    assert (status.done, status.note) == (-1, "last")
    assert 4 <= seen <= 11  # in 1.5 s, with those of other states
    assert 1 <= kept <= 2
    (note,) = await database.read(lambda c: list(c.scalars(select(jobs.c.note))))
    assert note == "last"


async def test_a_job_can_be_watched(database: Database) -> None:
    async def tell(job: Job[Walk]) -> None:
        job.progress(1, 2)
        await gate.wait()
        job.progress(2, 2)

    gate = asyncio.Event()
    seen: list[tuple[str, float]] = []
    async with running(database, Kind(tell)) as runner:
        own = runner.of("notes")
        id = await own.start("walk", Walk())
        async with asyncio.timeout(20), aclosing(own.watch(id)) as watched:
            async for status in watched:
                seen.append((status.state, status.done))
                if status.done == 1:
                    gate.set()
        assert not runner._watchers
    assert seen[-1] == ("done", 2)
    assert ("running", 1) in seen


# pause, resume, cancel


async def test_a_paused_job_goes_on_when_it_is_resumed(database: Database) -> None:
    has_stepped = asyncio.Event()

    async def step_and_wait(job: Job[Walk]) -> Mapping[str, Any]:
        if not job.state:
            await job.save({"step": 1}, partial(add_line, text="first"))
            has_stepped.set()
            await asyncio.Event().wait()
        return await walk(job)

    async with running(database, Kind(step_and_wait)) as runner:
        own = runner.of("notes")
        id = await own.start("walk", Walk(steps=2))
        await has_stepped.wait()
        assert (await own.pause(id)).state == "paused"
        assert (await own.pause(id)).state == "paused"
        assert await ends(database) == []
        assert (await own.resume(id)).state == "queued"
        assert (await until(runner, id)).attempts == 0
    assert await lines(database) == ["first", "1"]


async def test_a_running_job_is_cancelled_and_the_next_one_begins(database: Database) -> None:
    gate = Gate()
    async with running(database, Kind(gate)) as runner:
        first, second = [await runner.of("notes").start("walk", Walk()) for _ in range(2)]
        await gate.until(1)
        status = await runner.cancel(first)
        assert (status.state, status.error) == ("cancelled", "")
        await gate.until(2)
        assert gate.ran == [first, second]
        gate.may_go_on.set()
        await until(runner, second)
    assert await ends(database) == [(first, "cancelled"), (second, "done")]


async def test_a_job_that_tidies_up_when_it_is_paused_is_waited_for(database: Database) -> None:
    has_tidied = False
    gate = Gate()

    async def tidy(job: Job[Walk]) -> None:
        nonlocal has_tidied
        try:
            await gate(job)
        finally:
            await job.save({"tidied": True})
            has_tidied = True

    async with running(database, Kind(tidy)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        await gate.until(1)
        assert (await runner.pause(id)).state == "paused" and has_tidied
    assert await database.read(lambda c: c.scalar(select(jobs.c.state))) == '{"tidied": true}'


async def test_the_last_word_counts_when_two_want_different_things(database: Database) -> None:
    gate, may_end = Gate(), asyncio.Event()

    async def linger(job: Job[Walk]) -> None:
        try:
            await gate(job)
        finally:
            await may_end.wait()

    async with running(database, Kind(linger)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        await gate.until(1)
        pausing = asyncio.create_task(runner.pause(id))
        await asyncio.sleep(0.01)
        cancelling = asyncio.create_task(runner.cancel(id))
        await asyncio.sleep(0.01)
        may_end.set()
        assert (await cancelling).state == "cancelled"
        with pytest.raises(Conflict):
            await pausing
    assert await ends(database) == [(id, "cancelled")]


@pytest.mark.parametrize("state", ["queued", "running", "paused", "done", "failed", "cancelled"])
@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
async def test_what_can_be_asked_of_a_job_in_which_state(
    database: Database, state: JobState, verb: str
) -> None:
    allowed = {
        "pause": {"queued": "paused", "running": "paused", "paused": "paused"},
        "resume": {
            "queued": "queued",
            "running": "running",
            "paused": "queued",
            "failed": "queued",
            "cancelled": "queued",
        },
        "cancel": {
            "queued": "cancelled",
            "running": "cancelled",
            "paused": "cancelled",
            "cancelled": "cancelled",
        },
    }[verb]
    gate = Gate()
    async with running(database) as runner:
        id = await runner.of("notes").start("walk", Walk())
        if state == "running":
            await runner.register("notes", [Kind(gate)])
            await gate.until(1)
        else:
            await database.write(lambda connection: connection.execute(update(jobs).values(status=state)))
        ask = getattr(runner, verb)
        if state in allowed:
            assert (await ask(id)).state == allowed[state]
            expected = [(id, "cancelled")] if verb == "cancel" and state != "cancelled" else []
            assert await ends(database) == expected
        else:
            with pytest.raises(Conflict, match=f"is {state}") as raised:
                await ask(id)
            assert raised.value.fix
            assert (await runner.get(id)).state == state


async def test_one_that_does_not_let_go_is_named_and_counts_for_nothing(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_LETS_GO_S", 0.05)
    gate, late = Gate(), asyncio.Event()
    has_ended = asyncio.Event()

    async def hold(job: Job[Walk]) -> Mapping[str, Any]:
        while not late.is_set():
            try:
                await gate(job)
                await late.wait()
            except asyncio.CancelledError:
                continue
        try:
            await job.save({"step": 7}, partial(add_line, text="late"))
        finally:
            has_ended.set()
        return {"late": True}

    async with running(database, Kind(hold)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        await gate.until(1)
        assert (await runner.cancel(id)).state == "cancelled"
        assert f"job {id} (walk of notes) does not let go" in caplog.text
        late.set()
        gate.may_go_on.set()
        await has_ended.wait()
        await asyncio.sleep(0)
        status = await runner.get(id)
    assert (status.state, status.result) == ("cancelled", None)
    assert await lines(database) == []
    assert await ends(database) == [(id, "cancelled")]


async def test_one_that_swallows_its_cancellation_is_paused_all_the_same(database: Database) -> None:
    gate = Gate()

    async def swallow(job: Job[Walk]) -> Mapping[str, Any]:
        with suppress(asyncio.CancelledError):
            await gate(job)
        return {"half": True}

    async with running(database, Kind(swallow)) as runner:
        id = await runner.of("notes").start("walk", Walk())
        await gate.until(1)
        assert (await runner.pause(id)).state == "paused"
    assert await ends(database) == []


# an extension comes and goes


async def test_withdrawn_jobs_go_back_in_line_and_go_on_later(database: Database) -> None:
    before = asyncio.all_tasks()
    gate = Gate()
    async with running(database, Kind(gate)) as runner:
        tasks = asyncio.all_tasks()
        first, second = [await runner.of("notes").start("walk", Walk()) for _ in range(2)]
        await gate.until(1)
        await runner.withdraw("notes")
        await runner.withdraw("notes")
        assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()
        assert [(each.state, each.attempts) for each in await runner.all()] == [("queued", 0)] * 2
        gate.may_go_on.set()
        await runner.register("notes", [Kind(gate)])
        await until(runner, second)
    assert gate.ran == [first, first, second]
    assert asyncio.all_tasks() <= before


async def test_a_job_of_one_that_is_not_there_waits_and_can_be_cancelled(database: Database) -> None:
    async with running(database) as runner:
        waits, goes = [await runner.of("gone").start("walk", Walk()) for _ in range(2)]
        await runner.register("notes", [Kind()])
        await until(runner, await runner.of("notes").start("walk", Walk()))
        assert (await runner.cancel(goes)).state == "cancelled"
        status = await runner.get(waits)
    assert (status.state, status.title) == ("queued", "walk")


async def test_a_job_of_a_kind_that_is_not_there_any_more_waits_too(database: Database) -> None:
    async with running(database) as runner:
        old = await runner.of("notes").start("old", Walk())
        await runner.register("notes", [Kind()])
        await until(runner, await runner.of("notes").start("walk", Walk()))
        assert (await runner.get(old)).state == "queued"


async def test_an_extension_sees_its_own_jobs_only(database: Database) -> None:
    async with running(database, Kind()) as runner:
        own, others = runner.of("notes"), runner.of("others")
        id = await own.start("walk", Walk())
        await until(runner, id)
        assert ([each.id for each in await own.all()], await others.all()) == ([id], [])
        for ask in (others.get, others.pause, others.resume, others.cancel):
            with pytest.raises(NotFound):
                await ask(id)
        with pytest.raises(NotFound):
            async with aclosing(others.watch(id)) as watched:
                await anext(watched)
    assert not runner._watchers


class Nameless(Kind):
    title = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        ([Kind(), Kind()], "'walk' of 'notes' is there twice"),
        ([Kind(at_once=0)], "has at_once = 0"),
        ([Nameless()], "has no title"),
    ],
)
async def test_kinds_that_are_not_in_order_are_refused(
    database: Database, kinds: list[Kind], problem: str
) -> None:
    async with running(database) as runner:
        with pytest.raises(ExtensionFailed, match=problem):
            await runner.register("notes", kinds)


# asked for from outside


async def test_a_job_can_be_started_from_outside(database: Database) -> None:
    async with running(database, Kind()) as runner:
        id = await runner.start("notes", "walk", {"steps": 2})
        assert (await until(runner, id)).result == {"steps": 2}


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"steps": "canary"}, "steps", "valid integer"),
        ({"steps": -77}, "steps", "greater than or equal to 0"),
        ({"word": "secret canary"}, "word", "it is not valid"),
        ({"canary": 1}, "parameters", "a field that it does not have"),
    ],
)
async def test_what_is_wrong_is_named_and_not_quoted(
    database: Database, given: dict[str, Any], param: str, says: str
) -> None:
    async with running(database, Kind()) as runner:
        with pytest.raises(BadRequest) as raised:
            await runner.start("notes", "walk", given)
        assert await runner.all() == []
    assert raised.value.param == param and says in raised.value.detail and raised.value.fix
    assert "canary" not in raised.value.message and "-77" not in raised.value.message
    assert raised.value.__cause__ is None and raised.value.__context__ is None


async def test_what_is_not_there_is_said(database: Database) -> None:
    async with running(database, Kind()) as runner:
        with pytest.raises(NotFound, match="'gone'"):
            await runner.start("gone", "walk", {})
        with pytest.raises(NotFound, match="'fly'") as raised:
            await runner.start("notes", "fly", {})
        assert raised.value.fix == "There is: walk."
        with pytest.raises(NotFound, match="'nothing'"):
            await runner.get(JobId("nothing"))
        with pytest.raises(ExtensionFailed, match="cannot be asked with Other"):
            await runner.of("notes").start("walk", Other())


class Other(BaseModel):
    pass


# crashes


async def test_a_job_that_ran_when_the_server_was_killed_goes_on(tmp_path: Path) -> None:
    async def step_and_wait(job: Job[Walk]) -> None:
        await job.save({"step": 1}, partial(add_line, text="0"))
        await gate(job)

    async def run(runner: JobRunner) -> None:
        for _ in range(2):
            ids.append(await runner.of("notes").start("walk", Walk(steps=2)))
        await gate.until(1)

    gate, ids = Gate(), list[JobId]()
    crashed = await crash(tmp_path, Kind(step_and_wait), until_=run)
    async with store(tmp_path) as database, running(database, Kind()) as runner:
        status = await until(runner, ids[0])
        assert (status.state, status.attempts) == ("done", 0)
        await until(runner, ids[1])
        assert await lines(database) == ["0", "1", "0", "1"]
        assert await ends(database) == [(id, "done") for id in ids]
    await crashed.close()


async def test_it_counts_the_crashes_and_gives_up_after_three_in_a_row(tmp_path: Path) -> None:
    ids: list[JobId] = []
    left: list[Database] = []
    for crashes in range(3):
        gate = Gate()

        async def run(runner: JobRunner, gate: Gate = gate, crashes: int = crashes) -> None:
            if not crashes:
                ids.append(await runner.of("notes").start("walk", Walk()))
            await gate.until(1)
            assert (await runner.get(ids[0])).attempts == crashes

        left.append(await crash(tmp_path, Kind(gate), until_=run))
    async with store(tmp_path) as database, running(database, Kind()) as runner:
        status = await runner.get(ids[0])
        assert (status.state, status.attempts) == ("failed", 3)
        assert status.error.startswith("The server ended 3 times in a row") and ids[0] in status.fix
        assert await ends(database) == [(ids[0], "failed")]
        assert (await runner.resume(ids[0])).attempts == 0
        assert (await until(runner, ids[0])).state == "done"
    for each in left:
        await each.close()


async def test_one_that_gets_on_is_not_given_up(tmp_path: Path) -> None:
    ids: list[JobId] = []
    left: list[Database] = []
    for crashes in range(6):
        gate = Gate()

        async def step(job: Job[Walk], gate: Gate = gate) -> None:
            await job.save({"step": job.state.get("step", 0) + 1})
            await gate(job)

        async def run(runner: JobRunner, gate: Gate = gate, crashes: int = crashes) -> None:
            if not crashes:
                ids.append(await runner.of("notes").start("walk", Walk()))
            await gate.until(1)

        left.append(await crash(tmp_path, Kind(step), until_=run))
    async with store(tmp_path) as database, running(database, Kind()) as runner:
        assert (await until(runner, ids[0])).state == "done"
    for each in left:
        await each.close()


async def test_a_crash_is_seen_also_where_the_extension_does_not_come_back(tmp_path: Path) -> None:
    gate = Gate()

    async def run(runner: JobRunner) -> None:
        await runner.of("notes").start("walk", Walk())
        await gate.until(1)

    crashed = await crash(tmp_path, Kind(gate), until_=run)
    async with store(tmp_path) as database, running(database) as runner:
        await runner.open()
        (status,) = await runner.all()
        assert (status.state, status.attempts) == ("queued", 1)
    await crashed.close()


# the disk


async def test_an_end_that_does_not_fit_on_the_disk_is_kept_when_it_does(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rooms, "_TRY_AGAIN_S", 0.01)
    is_refused = asyncio.Event()

    def look(record: logging.LogRecord) -> bool:
        if "is not kept yet: The disk is full" in record.getMessage():
            is_refused.set()
        return True

    async def fill(job: Job[Walk]) -> Mapping[str, Any]:
        await database.write(lambda connection: connection.exec_driver_sql(NO_SPACE).all())
        return {"large": "x" * 100_000}

    caplog.handler.addFilter(look)
    try:
        async with running(database, Kind(fill)) as runner:
            id = await runner.of("notes").start("walk", Walk())
            await asyncio.wait_for(is_refused.wait(), 20)
            assert (await runner.get(id)).state == "running"
            await database.write(lambda connection: connection.exec_driver_sql(SPACE).all())
            status = await until(runner, id)
    finally:
        caplog.handler.removeFilter(look)
    assert status.result is not None and len(status.result["large"]) == 100_000
    assert await ends(database) == [(id, "done")]


# what is dropped


async def test_old_ends_are_dropped_and_nothing_that_waits(database: Database) -> None:
    async with running(database) as runner:
        ids = [await runner.of("notes").start("walk", Walk()) for _ in range(4)]

    def age(connection: Connection) -> None:
        for id, status, days in zip(
            ids, ("done", "failed", "queued", "paused"), (31, 29, 99, 99), strict=True
        ):
            values = {"status": status, "changed_at": time.time() - days * 86400}
            connection.execute(update(jobs).where(jobs.c.id == id).values(**values))

    await database.write(age)
    async with running(database) as runner:
        await runner.open()
        assert [status.id for status in await runner.all()] == ids[:0:-1]


async def test_a_thousand_ends_are_kept(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    async with running(database) as runner:
        await runner.of("notes").start("walk", Walk())

    def multiply(connection: Connection) -> None:
        row = dict(connection.execute(select(jobs)).mappings().one())
        rows = [row | {"id": f"{n}", "position": n + 2, "status": "done"} for n in range(1010)]
        for number, each in enumerate(rows):
            each["changed_at"] = time.time() - number
        connection.execute(jobs.insert(), rows)

    await database.write(multiply)
    with caplog.at_level(logging.WARNING):
        async with running(database) as runner:
            await runner.open()
            kept = {status.id for status in await runner.all()}
    assert len(kept) == 1001
    assert not {f"{n}" for n in range(1000, 1010)} & kept
