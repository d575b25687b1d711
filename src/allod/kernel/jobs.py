"""Runs jobs: in line, so many of a kind at once, each to its end exactly once, also across crashes of the server.

What stands in the table is what counts; in memory is only what runs now.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection

from allod.kernel import custody, job_table
from allod.kernel.events import EventBus
from allod.kernel.job_kinds import check_kinds, check_parameters, read_parameters
from allod.kernel.job_table import ENDED, Claimed, Outcome, Progress
from allod.kernel.log import said_of
from allod.kernel.running_job import RunningJob
from allod.kernel.storage import Database
from allod.sdk.errors import AllodError, NotFound
from allod.sdk.events import JobEnded, JobProgressed
from allod.sdk.jobs import JobId, JobKind, JobState, JobStatus

_LETS_GO_S = 10.0
_TRY_AGAIN_S = 5.0
_log = logging.getLogger("allod.jobs")


@dataclass(eq=False, slots=True)
class _Place:
    """An extension whose jobs run now."""

    extension: str
    kinds: Mapping[str, JobKind[Any]]
    wanted: asyncio.Event = field(default_factory=asyncio.Event)  # something may have to be begun
    is_leaving: bool = False
    tending: asyncio.Task[None] | None = None


class JobRunner:
    """The jobs of all extensions."""

    def __init__(self, database: Database, bus: EventBus) -> None:
        self._database = database
        self._bus = bus
        self._places: dict[str, _Place] = {}
        self._runs: dict[JobId, RunningJob] = {}
        self._watchers: defaultdict[JobId, set[asyncio.Event]] = defaultdict(set)
        self._turn = asyncio.Lock()  # nobody begins a job while another changes its row
        self._is_open = False

    def of(self, extension: str) -> OwnJobs:
        """The jobs of one extension, as it sees them."""
        return OwnJobs(self, extension)

    # extensions come and go

    async def open(self) -> None:
        """Put what a crash left running back in line, and drop what ended long ago. Once, before the first `register`.

        A job that was found so three times in a row, and saved nothing new meanwhile, fails instead.
        """
        if self._is_open:
            return

        def recover(connection: Connection) -> None:
            job_table.prune(connection)
            for status in job_table.recover(connection):
                self._record_end(connection, status.extension, status.id, status.kind, status.state)

        await self._database.write(recover)
        self._is_open = True

    async def prune(self) -> None:
        """Drop what ended long ago."""
        await self._database.write(job_table.prune)

    async def register(self, extension: str, kinds: Sequence[JobKind[Any]]) -> None:
        """Begin to run the jobs of `extension`, those first that were left from before. Raises ExtensionFailed."""
        check_kinds(extension, kinds)
        await self.open()
        place = _Place(extension, {kind.name: kind for kind in kinds})
        self._places[extension] = place
        place.wanted.set()
        place.tending = custody.begin(self._tend(place), f"jobs:{extension}")

    async def withdraw(self, extension: str) -> None:
        """Stop running the jobs of `extension`: they go back in line, and wait until it is registered again."""
        place = self._places.pop(extension, None)
        if place is None or place.tending is None:
            return
        place.is_leaving = True
        place.wanted.set()
        await asyncio.wait([place.tending])
        runs = [run for run in self._runs.values() if run.extension == extension]
        await asyncio.gather(*(self._put_back(run) for run in runs))

    async def close(self) -> None:
        """Withdraw all."""
        await asyncio.gather(*(self.withdraw(extension) for extension in list(self._places)))

    async def _put_back(self, run: RunningJob) -> None:
        try:
            await self._stop(run, "queued")
        except AllodError as error:  # it is found running at the next start
            _log.warning("job %s was left where it is: %s", run.id, error.detail)
            self._abandon(run)

    # what people and extensions ask for

    async def start(self, extension: str, kind: str, parameters: Mapping[str, Any]) -> JobId:
        """Put a job in line, as it came from outside. Raises NotFound, BadRequest."""
        if extension not in self._places:
            raise NotFound(
                f"No extension {extension[:60]!r} runs jobs now.",
                fix="`allod extensions` shows which ones run.",
            )
        return await self.add(extension, kind, read_parameters(self._kind(extension, kind), parameters))

    async def add(self, extension: str, kind: str, parameters: BaseModel) -> JobId:
        """Put a job in line, as its extension asks for it. One that still starts is taken at its word."""
        text = parameters.model_dump_json(by_alias=True)
        if extension in self._places:
            check_parameters(extension, self._kind(extension, kind), parameters, text)
        id = JobId(secrets.token_hex(8))
        try:
            await self._database.write(
                lambda connection: job_table.add(connection, id, extension, kind, text)
            )
        finally:  # it may be in line even if whoever asked has gone
            self._wake(extension)
        self._tell(id, extension, kind, "queued", Progress())
        return id

    async def get(self, id: JobId, extension: str | None = None) -> JobStatus:
        """Where a job stands. Raises NotFound, also if it is not a job of `extension`."""
        return self._shown(
            await self._database.read(lambda connection: job_table.get(connection, id, extension))
        )

    async def all(
        self, extension: str | None = None, limit: int | None = None, before: JobId | None = None
    ) -> list[JobStatus]:
        """All jobs that are kept, or all of one extension, newest first, from behind `before`. Raises NotFound."""
        rows = await self._database.read(
            lambda connection: job_table.newest(connection, extension, limit, before)
        )
        return [self._shown(status) for status in rows]

    async def pause(self, id: JobId, extension: str | None = None) -> JobStatus:
        """Let a job wait until it is resumed. Raises Conflict if it has ended."""
        return await self._change(id, "paused", extension)

    async def resume(self, id: JobId, extension: str | None = None) -> JobStatus:
        """Put a job back in line that is paused, failed or cancelled. Raises Conflict if it is done."""
        return await self._change(id, "queued", extension)

    async def cancel(self, id: JobId, extension: str | None = None) -> JobStatus:
        """End a job. Raises Conflict if it has ended by itself."""
        return await self._change(id, "cancelled", extension)

    async def watch(self, id: JobId, extension: str | None = None) -> AsyncGenerator[JobStatus, None]:
        """Where a job stands, now and at each change, until it has ended."""
        changed = asyncio.Event()
        self._watchers[id].add(changed)
        try:
            while True:
                changed.clear()
                status = await self.get(id, extension)
                yield status
                if status.has_ended:
                    return
                await changed.wait()
        finally:
            self._watchers[id].discard(changed)
            if not self._watchers[id]:
                del self._watchers[id]

    async def _change(self, id: JobId, to: JobState, extension: str | None) -> JobStatus:
        await self.get(id, extension)
        while True:
            async with self._turn:
                run = self._runs.get(id)
                if run is None:
                    return await self._move(id, to)
            if to != "queued":
                await self._stop(run, to)
            elif run.then is None:
                return await self.get(id)
            else:
                await run.gone.wait()

    async def _move(self, id: JobId, to: JobState) -> JobStatus:
        """Change the row of a job that does not run."""

        def move(connection: Connection) -> tuple[JobStatus, bool]:
            status, is_new = job_table.move(connection, id, to)
            if is_new and to in ENDED:
                self._record_end(connection, status.extension, id, status.kind, to)
            return status, is_new

        status, is_new = await self._database.write(move)
        if is_new:
            progress = Progress(status.done, status.total, status.note)
            self._tell(id, status.extension, status.kind, to, progress)
        self._wake(status.extension)
        return self._shown(status)

    # running

    async def _tend(self, place: _Place) -> None:
        """Begin what is in line, as far as there is room."""
        while True:
            await place.wanted.wait()
            place.wanted.clear()
            if place.is_leaving:
                return
            try:
                async with self._turn:
                    for claimed in await self._claim(place):
                        self._begin(place, claimed)
            except Exception as error:  # whatever it is, the jobs of an extension must not stop for good
                _log.warning("jobs of %s wait: %s", place.extension, said_of(error))
                asyncio.get_running_loop().call_later(_TRY_AGAIN_S, place.wanted.set)

    async def _claim(self, place: _Place) -> list[Claimed]:
        running = Counter(run.kind.name for run in self._runs.values() if run.extension == place.extension)
        free = {name: kind.at_once - running[name] for name, kind in place.kinds.items()}
        room = {name: number for name, number in free.items() if number > 0}
        if not room:
            return []
        return await self._database.write(
            lambda connection: job_table.claim(connection, place.extension, room)
        )

    def _begin(self, place: _Place, claimed: Claimed) -> None:
        run = RunningJob(
            claimed, place.extension, place.kinds[claimed.kind], self._database, self._tell_of_run
        )
        self._runs[run.id] = run
        run.driver = custody.begin(self._drive(run), f"job end:{run.id}")
        self._tell_of_run(run)

    async def _drive(self, run: RunningJob) -> None:
        """See a job to its end, and keep how it ended; on a full disk, as soon as there is room."""
        await asyncio.wait([run.work])
        await run.settle()
        outcome = run.outcome()
        try:
            while not run.is_abandoned:
                try:
                    await self._conclude(run, outcome)
                    break
                except AllodError as error:
                    _log.warning("the end of job %s is not kept yet: %s", run.id, error.detail)
                    await asyncio.sleep(_TRY_AGAIN_S)
        except Exception:
            _log.exception("the end of job %s cannot be kept: at the next start it is tried again", run.id)
        finally:
            self._forget(run)

    async def _conclude(self, run: RunningJob, outcome: Outcome) -> None:
        """Keep how a job ended and record that it has, in one transaction: both happen once, or not at all."""

        def conclude(connection: Connection) -> bool:
            is_new = job_table.conclude(connection, run.id, run.at, outcome)
            if is_new and outcome.state in ENDED:
                self._record_end(connection, run.extension, run.id, run.kind.name, outcome.state)
            return is_new

        if await self._database.write(conclude):
            self._tell(run.id, run.extension, run.kind.name, outcome.state, run.at)

    async def _stop(self, run: RunningJob, then: JobState) -> None:
        """End a run, and wait until its row says so."""
        run.stop(then)
        try:
            async with asyncio.timeout(_LETS_GO_S):
                await run.gone.wait()
        except TimeoutError:
            await self._conclude(run, Outcome(then))
            _log.warning("job %s (%s of %s) does not let go", run.id, run.kind.name, run.extension)
            self._abandon(run)

    def _abandon(self, run: RunningJob) -> None:
        run.is_abandoned = True
        run.work.add_done_callback(lambda work: work.cancelled() or work.exception())  # nobody else asks
        if run.driver is not None:
            run.driver.cancel()
        self._forget(run)

    def _forget(self, run: RunningJob) -> None:
        if self._runs.get(run.id) is run:
            del self._runs[run.id]
        run.gone.set()
        self._wake(run.extension)

    # small things

    def _kind(self, extension: str, kind: str) -> JobKind[Any]:
        kinds = self._places[extension].kinds
        if kind not in kinds:
            known = ", ".join(sorted(kinds)) or "none"
            raise NotFound(f"{extension!r} has no kind of job {kind[:60]!r}.", fix=f"There is: {known}.")
        return kinds[kind]

    def _shown(self, status: JobStatus) -> JobStatus:
        """With the title of its kind, and how far it is at this moment."""
        place, run = self._places.get(status.extension), self._runs.get(status.id)
        kind = place.kinds.get(status.kind) if place is not None else None
        if kind is not None:
            status = replace(status, title=kind.title)
        if run is not None and status.state == "running":
            status = replace(status, done=run.at.done, total=run.at.total, note=run.at.note)
        return status

    def _wake(self, extension: str) -> None:
        if extension in self._places:
            self._places[extension].wanted.set()

    def _tell_of_run(self, run: RunningJob) -> None:
        self._tell(run.id, run.extension, run.kind.name, "running", run.at)

    def _tell(self, id: JobId, extension: str, kind: str, state: JobState, at: Progress) -> None:
        self._bus.of(extension).publish(JobProgressed(id, kind, state, at.done, at.total, at.note))
        for changed in self._watchers.get(id, ()):
            changed.set()

    def _record_end(
        self, connection: Connection, extension: str, id: JobId, kind: str, state: JobState
    ) -> None:
        self._bus.of(extension).record(connection, JobEnded(id, kind, state))


class OwnJobs:
    """Implements `sdk.jobs.Jobs` for one extension."""

    def __init__(self, runner: JobRunner, extension: str) -> None:
        self._runner = runner
        self._extension = extension

    async def start(self, kind: str, parameters: BaseModel) -> JobId:
        """Put a job in line."""
        return await self._runner.add(self._extension, kind, parameters)

    async def get(self, job: JobId) -> JobStatus:
        """Where it stands."""
        return await self._runner.get(job, self._extension)

    async def all(self) -> Sequence[JobStatus]:
        """All that are kept, newest first."""
        return await self._runner.all(self._extension)

    async def pause(self, job: JobId) -> JobStatus:
        """Stop working on it until it is resumed."""
        return await self._runner.pause(job, self._extension)

    async def resume(self, job: JobId) -> JobStatus:
        """Go on with it, or try it again."""
        return await self._runner.resume(job, self._extension)

    async def cancel(self, job: JobId) -> JobStatus:
        """End it."""
        return await self._runner.cancel(job, self._extension)

    def watch(self, job: JobId) -> AsyncGenerator[JobStatus, None]:
        """Where it stands, now and at each change, until it has ended."""
        return self._runner.watch(job, self._extension)
