"""The program that test_jobs_survive.py kills: jobs, settings and writes at once, each said on stdout once it is kept.

python survivor.py FOLDER ROUND [finish]
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sqlalchemy import Column, Connection, Integer, String, text

from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.jobs import JobRunner
from allod.kernel.migrations import Migrator
from allod.kernel.schema import MIGRATIONS
from allod.kernel.storage import Database
from allod.sdk.events import JobEnded
from allod.sdk.jobs import Job, JobKind
from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from alembic.operations import Operations

KEY = bytes(range(32))
STEPS = 12
JOBS_A_ROUND = 3
SETTING = text(
    "INSERT INTO kernel__settings VALUES ('walker', :field, :value, 0) "
    "ON CONFLICT DO UPDATE SET value = excluded.value"
)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _tables(op: Operations) -> None:
    op.create_table(
        "walker__steps",
        Column("id", Integer, primary_key=True),
        Column("job", String, nullable=False),
        Column("step", Integer, nullable=False),
    )
    op.create_table("walker__lines", Column("text", String, nullable=False))
    op.create_table("walker__heard", Column("job", String, nullable=False))


def open_store(folder: Path) -> Database:
    database = Database(folder / "allod.db", KEY)
    migrator = Migrator(database, folder / "backups")
    migrator.bring_up(KERNEL, MIGRATIONS)
    migrator.bring_up("walker", [Migration(1, "steps and lines", _tables)])
    return database


class Nothing(BaseModel):
    pass


class Walk(JobKind[Nothing]):
    name, title, parameters, at_once = "walk", "Walk", Nothing, 2

    async def run(self, job: Job[Nothing]) -> Mapping[str, Any]:
        for step in range(job.state.get("step", 0), STEPS):

            def keep(connection: Connection, step: int = step) -> None:
                row = {"job": job.id, "step": step}
                connection.execute(text("INSERT INTO walker__steps (job, step) VALUES (:job, :step)"), row)

            await job.save({"step": step + 1}, keep)
            say("step", job.id, step)
            job.progress(step + 1, STEPS)
        return {"steps": STEPS}


class Survivor:
    def __init__(self, database: Database, runner: JobRunner, round: int) -> None:
        self._database = database
        self._runner = runner
        self._round = round
        self._has_heard = asyncio.Event()

    async def hear(self, event: JobEnded) -> None:
        row = {"job": event.job}
        await self._database.write(
            lambda connection: connection.execute(text("INSERT INTO walker__heard VALUES (:job)"), row),
            "walker",
        )
        self._has_heard.set()

    async def start_jobs(self) -> None:
        for _ in range(JOBS_A_ROUND):
            say("job", await self._runner.of("walker").start("walk", Nothing()))

    async def set_settings(self) -> None:
        for number in itertools.count(self._round * 1_000_000):
            row = {"field": f"f{number % 7}", "value": str(number)}

            def write(connection: Connection, row: Mapping[str, str] = row) -> None:
                connection.execute(SETTING, row)

            await self._database.write(write)
            say("setting", row["field"], row["value"])

    async def write_lines(self) -> None:
        for number in itertools.count():
            row = {"text": f"{self._round}.{number}"}

            def write(connection: Connection, row: Mapping[str, str] = row) -> None:
                connection.execute(text("INSERT INTO walker__lines VALUES (:text)"), row)

            await self._database.write(write, "walker")
            say("line", row["text"])

    async def finish(self) -> None:
        for status in await self._runner.all():
            async with aclosing(self._runner.watch(status.id)) as watched:
                async for _ in watched:
                    pass
        ended = {status.id for status in await self._runner.all()}
        while not ended <= await self._database.read(_heard):
            await self._has_heard.wait()
            self._has_heard.clear()


def _heard(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT job FROM walker__heard")))


async def main(folder: Path, round: int, *, is_last: bool) -> None:
    say("begun")
    database = open_store(folder)
    bus = EventBus(database)
    await bus.start()
    runner = JobRunner(database, bus)
    survivor = Survivor(database, runner, round)
    bus.of("walker").subscribe(JobEnded, survivor.hear, name="walker:JobEnded")
    say("open")
    await runner.register("walker", [Walk()])
    if is_last:
        await survivor.finish()
    else:
        await asyncio.gather(survivor.start_jobs(), survivor.set_settings(), survivor.write_lines())
    await runner.close()
    await bus.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), is_last="finish" in sys.argv))
