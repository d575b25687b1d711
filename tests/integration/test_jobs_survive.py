"""A server that is killed at random moments loses nothing that it said was kept, and does no job twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from allod.kernel.schema import jobs, outbox, settings
from tests.integration.survivor import JOBS_A_ROUND, STEPS, open_store

SURVIVOR = Path(__file__).with_name("survivor.py")


@dataclass
class Said:
    """What was acknowledged, over all rounds."""

    jobs: set[str] = field(default_factory=set)
    steps: set[tuple[str, int]] = field(default_factory=set)
    settings: dict[str, int] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)
    moments: Counter[str] = field(default_factory=Counter)

    def hear(self, line: str) -> str:
        """Note one whole line. Gives its first word."""
        word, *rest = line.split()
        if word == "job":
            self.jobs.add(rest[0])
        elif word == "step":
            self.steps.add((rest[0], int(rest[1])))
        elif word == "setting":
            self.settings[rest[0]] = int(rest[1])
        elif word == "line":
            self.lines.add(rest[0])
        return word


@contextmanager
def survivor(folder: Path, number: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(SURVIVOR), str(folder), str(number), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def killed(folder: Path, number: int, said: Said, chance: random.Random) -> None:
    """One round: begin, hear what is said, and kill it.

    Every second round lets some steps be taken first: else a job could be met three times in a row before it has
    saved anything, and would rightly be given up.
    """
    wait_for, lines, then_s = chance.choice([("begun", 1, 0.15), ("open", 1, 0.5)])
    if number % 2:
        wait_for, lines, then_s = "step", chance.randint(8, STEPS * JOBS_A_ROUND - 2), 0.005
    with survivor(folder, number) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            lines -= said.hear(line) == wait_for
            if not lines:
                break
        time.sleep(chance.uniform(0, then_s))
        process.kill()
        rest, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == -9, errors
    for line in rest.split("\n")[:-1]:  # the last piece is empty, or was cut off
        said.hear(line)
    said.moments[wait_for] += 1


def finished(folder: Path, number: int, said: Said) -> None:
    """The last round: all jobs come to their end."""
    with survivor(folder, number, "finish") as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for line in output.splitlines():
        said.hear(line)


@dataclass
class Kept:
    """What the store holds."""

    states: dict[str, str]
    steps: dict[str, list[int]]
    settings: dict[str, int]
    lines: set[str]
    ends: Counter[str]
    heard: set[str]


def read(connection: Connection) -> Kept:
    steps = defaultdict(list)
    for job, step in connection.execute(text("SELECT job, step FROM walker__steps ORDER BY id")):
        steps[job].append(step)
    told = connection.execute(select(outbox.c.fields).where(outbox.c.name == "JobEnded"))
    return Kept(
        states={id: status for id, status in connection.execute(select(jobs.c.id, jobs.c.status))},
        steps=dict(steps),
        settings={
            name: int(value) for name, value in connection.execute(select(settings.c.field, settings.c.value))
        },
        lines=set(connection.scalars(text("SELECT text FROM walker__lines"))),
        ends=Counter(json.loads(row.fields)["job"] for row in told),
        heard=set(connection.scalars(text("SELECT job FROM walker__heard"))),
    )


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(20, marks=pytest.mark.timeout(400)),
        pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
async def test_nothing_acknowledged_is_lost_and_each_job_runs_once(tmp_path: Path, rounds: int) -> None:
    said, chance = Said(), random.Random(rounds)
    for number in range(rounds):
        killed(tmp_path, number, said, chance)
    finished(tmp_path, rounds, said)
    database = open_store(tmp_path)
    kept = await database.read(read)
    problems = database.problems()
    await database.close()

    assert problems == []
    assert said.moments.total() == rounds and len(said.jobs) > rounds and len(said.lines) > rounds
    assert said.jobs <= kept.states.keys()
    assert set(kept.states.values()) == {"done"}
    assert kept.steps == {job: list(range(STEPS)) for job in kept.states}
    assert said.steps <= {(job, step) for job, steps in kept.steps.items() for step in steps}
    assert kept.ends == dict.fromkeys(kept.states, 1)
    assert kept.heard == kept.states.keys()
    assert said.lines <= kept.lines
    assert {name: value for name, value in said.settings.items() if kept.settings.get(name, -1) < value} == {}
