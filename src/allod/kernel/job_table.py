"""The table of jobs: all that is written to it and read from it. Each function runs inside a transaction of its caller.

A row is `running` only while its job runs, or after a crash until `recover`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, or_, select, update

from allod.kernel.schema import jobs
from allod.sdk.errors import Conflict, NotFound
from allod.sdk.jobs import JobId, JobState, JobStatus

CRASHES = 3
"""How often in a row the server may end while a job runs that saves nothing new; then it fails."""

ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")
"""States in which nothing more happens by itself."""

_KEPT_S = 30 * 86400
_KEPT_ROWS = 1000
_FROM: Mapping[JobState, tuple[JobState, ...]] = {
    "paused": ("queued", "running"),
    "queued": ("paused", "failed", "cancelled"),
    "cancelled": ("queued", "running", "paused"),
}
_ASKED = {"paused": "paused", "queued": "resumed", "cancelled": "cancelled"}
_CRASHED = f"The server ended {CRASHES} times in a row while this job ran, and it had saved nothing new."
_TRY_AGAIN = "Look at the server's log. To try it once more: allod jobs resume {id}"

# Built once: putting a statement together takes longer than running it.
_ONE = select(jobs).where(jobs.c.id == bindparam("job"))
_NEXT = (
    select(jobs)
    .where(jobs.c.status == "queued", jobs.c.extension == bindparam("of"), jobs.c.kind == bindparam("which"))
    .order_by(jobs.c.position)
    .limit(bindparam("at_most"))
)


class Progress(NamedTuple):
    """How far a job is."""

    done: float = 0
    total: float = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is to run now: what was asked for and what it saved, both as JSON."""

    id: JobId
    kind: str
    parameters: str
    state: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class Outcome:
    """Into which state a job goes that has run, and with what. `result` is JSON."""

    state: JobState
    result: str | None = None
    error: str = ""
    fix: str = ""


def add(connection: Connection, id: JobId, extension: str, kind: str, parameters: str) -> None:
    """Put a job at the end of the line."""
    now = time.time()
    values = {
        "id": id,
        "position": select(func.coalesce(func.max(jobs.c.position), 0) + 1).scalar_subquery(),
        "extension": extension,
        "kind": kind,
        "parameters": parameters,
        "status": "queued",
        "state": "{}",
        "attempts": 0,
        "created_at": now,
        "changed_at": now,
        "error": "",
        "fix": "",
    }
    connection.execute(insert(jobs).values(**values, done=0, total=0, note=""))


def claim(connection: Connection, extension: str, room: Mapping[str, int]) -> list[Claimed]:
    """The next jobs in line, as many of each kind as there is room for. They are `running` from now on."""
    claimed = []
    for kind, at_most in room.items():
        wanted = {"of": extension, "which": kind, "at_most": at_most}
        for row in connection.execute(_NEXT, wanted).mappings().all():
            progress = Progress(row["done"], row["total"], row["note"])
            claimed.append(Claimed(JobId(row["id"]), kind, row["parameters"], row["state"], progress))
    if claimed:
        ids = [job.id for job in claimed]
        started = update(jobs).where(jobs.c.id.in_(ids)).values(status="running", changed_at=time.time())
        connection.execute(started)
    return claimed


def save(connection: Connection, id: JobId, state: str, progress: Progress, *, is_new: bool) -> None:
    """Keep what a running job saved. What is new ends a row of crashes."""
    values = {"state": state} | ({"attempts": 0} if is_new else {})
    if not _update_running(connection, id, progress, values):
        raise Conflict(f"Job {id!r} does not run any more.", fix="Nothing was kept.")


def keep_progress(connection: Connection, id: JobId, progress: Progress) -> None:
    """Keep how far a running job is."""
    _update_running(connection, id, progress, {})


def conclude(connection: Connection, id: JobId, progress: Progress, outcome: Outcome) -> bool:
    """Take a job out of `running`. False if it was not there any more."""
    values = {
        "status": outcome.state,
        "result": outcome.result,
        "error": outcome.error,
        "fix": outcome.fix,
    }
    return _update_running(connection, id, progress, values)


def _update_running(
    connection: Connection, id: JobId, progress: Progress, values: Mapping[str, object]
) -> bool:
    change = update(jobs).where(jobs.c.id == id, jobs.c.status == "running")
    now = {"done": progress.done, "total": progress.total, "note": progress.note, "changed_at": time.time()}
    return connection.execute(change.values(**now, **values)).rowcount == 1


def move(connection: Connection, id: JobId, to: JobState) -> tuple[JobStatus, bool]:
    """Pause, resume or cancel a job that nobody works on. Gives how it stands, and whether it is otherwise now.

    Raises NotFound, and Conflict where that cannot be done.
    """
    status = get(connection, id)
    if status.state == to or (to == "queued" and status.state == "running"):
        return status, False
    if status.state not in _FROM[to]:
        raise Conflict(f"Job {id!r} is {status.state}, so it cannot be {_ASKED[to]}.", fix=_way_out(status))
    values: dict[str, object] = {"status": to, "changed_at": time.time()}
    if to == "queued":
        values |= {"attempts": 0, "result": None, "error": "", "fix": ""}
    connection.execute(update(jobs).where(jobs.c.id == id).values(**values))
    return get(connection, id), True


def _way_out(status: JobStatus) -> str:
    if status.state == "done":
        return "It has done all it had to. Start another one."
    return f"It has ended. To try it again: allod jobs resume {status.id}"


def get(connection: Connection, id: JobId, extension: str | None = None) -> JobStatus:
    """How a job stands. Raises NotFound, also if it is another extension's."""
    row = connection.execute(_ONE, {"job": id}).mappings().first()
    if row is None or extension not in (None, row["extension"]):
        raise NotFound(f"No job has the id {id[:60]!r}.", fix="`allod jobs` lists them.")
    return _status(row)


def newest(
    connection: Connection,
    extension: str | None = None,
    limit: int | None = None,
    before: JobId | None = None,
) -> list[JobStatus]:
    """All jobs, or those of one extension, newest first; with `before`, those asked for earlier than that one.

    Raises NotFound where there is no job `before`.
    """
    query = select(jobs).order_by(jobs.c.position.desc()).limit(limit)
    if extension is not None:
        query = query.where(jobs.c.extension == extension)
    if before is not None:
        get(connection, before, extension)
        earlier = select(jobs.c.position).where(jobs.c.id == before).scalar_subquery()
        query = query.where(jobs.c.position < earlier)
    return [_status(row) for row in connection.execute(query).mappings()]


def recover(connection: Connection) -> Sequence[JobStatus]:
    """Put what was running when the server ended back in line. Gives those that failed instead."""
    failed = []
    for row in connection.execute(select(jobs).where(jobs.c.status == "running")).mappings().all():
        crashes = row["attempts"] + 1
        values: dict[str, object] = {"attempts": crashes, "status": "queued", "changed_at": time.time()}
        if crashes >= CRASHES:
            values |= {"status": "failed", "error": _CRASHED, "fix": _TRY_AGAIN.format(id=row["id"])}
        connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(**values))
        if crashes >= CRASHES:
            failed.append(get(connection, JobId(row["id"])))
    return failed


def prune(connection: Connection) -> None:
    """Drop jobs that ended long ago, and all but the newest of those that ended."""
    has_ended = jobs.c.status.in_(ENDED)
    newest = select(jobs.c.id).where(has_ended).order_by(jobs.c.changed_at.desc()).limit(_KEPT_ROWS)
    is_old = jobs.c.changed_at < time.time() - _KEPT_S
    connection.execute(delete(jobs).where(has_ended, or_(is_old, jobs.c.id.not_in(newest))))


def _status(row: RowMapping) -> JobStatus:
    """The row as others see it; its title is its kind's."""
    return JobStatus(
        id=JobId(row["id"]),
        extension=row["extension"],
        kind=row["kind"],
        title=row["kind"],
        state=row["status"],
        done=row["done"],
        total=row["total"],
        note=row["note"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        result=None if row["result"] is None else json.loads(row["result"]),
        error=row["error"],
        fix=row["fix"],
    )
