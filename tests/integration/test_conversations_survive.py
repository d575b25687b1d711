"""A server or a worker that is killed in mid-stream loses nothing acknowledged, and half a second of an answer.

Each server is killed, or first its worker; the next one on the same folder is asked what is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from allod.extensions.conversational.store.tables import messages, queue, threads
from allod.kernel.storage import Database
from allod.testing.house import KEY
from allod.testing.server import RunningServer, running_server
from tests.http_client import get, post, request, wait_until, workers
from tests.integration.talkers import CONVERSATIONS, Acknowledged, Heard, follow, talking
from tests.privacy.canary import open_store
from tests.unit.conversational.talking import talking as house_talks

SETTINGS = "[conversational]\ntitles = false\n"
PROMISED_S = 0.5
SLACK_S = 0.3
"""For two busy cores: between a piece's being said and its being heard, and until a timer has its turn."""


@dataclass
class Course:
    """What came of all rounds."""

    kept: Acknowledged = field(default_factory=Acknowledged)
    killed: Counter[str] = field(default_factory=Counter)
    lost_s: list[float] = field(default_factory=list)
    broken: int = 0
    """Answers that had begun when their worker was killed."""
    continued: int = 0


def text_in(message: Any) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def message_of(server: RunningServer, heard: Heard) -> Any:
    reply = get(server, f"{CONVERSATIONS}/threads/{heard.thread}/messages/{heard.id}")
    assert reply.status == 200, reply.body
    return reply.json


def gone_on_with(server: RunningServer, heard: Heard, kept: str) -> None:
    """Continue an answer that was cut short."""
    body = {"continue": heard.id, "parameters": {"max_tokens": 2, "temperature": 0}}
    begun = post(server, f"{CONVERSATIONS}/threads/{heard.thread}/runs", body)
    assert begun.status == 202, begun.body
    ended = [data for event, data in follow(server, begun.json["run"]) if event == "ended"]
    assert ended[0]["state"] in ("done", "length"), ended
    whole = text_in(ended[0]["message"])
    assert whole.startswith(kept) and (len(whole) > len(kept) or ended[0]["state"] == "done")
    assert text_in(message_of(server, heard)) == whole


def after_server(server: RunningServer, course: Course, heard: list[Heard], killed_at: float) -> None:
    """A new server on the folder of one that was killed."""
    for thread in course.kept.memory_only:
        assert get(server, f"{CONVERSATIONS}/threads/{thread}").status == 404
    for thread, waiting in course.kept.queued.items():
        found = get(server, f"{CONVERSATIONS}/threads/{thread}/queue").json["queue"]
        assert waiting.items() <= {each["id"]: text_in(each) for each in found}.items()
        for id in [each["id"] for each in found]:
            assert request(server, "DELETE", f"{CONVERSATIONS}/threads/{thread}/queue/{id}").status == 204
    course.kept.queued.clear()
    for each in heard:
        if each.is_memory_only:
            continue
        message = message_of(server, each)
        kept, said = text_in(message), each.text
        if each.ended is not None:
            assert (message["status"], kept) == (each.ended["status"], text_in(each.ended))
            continue
        assert message["status"] in ("interrupted", "length", "done"), message["status"]
        assert said.startswith(kept) or kept.startswith(said)
        since = each.missing_since(kept)
        course.lost_s.append(0.0 if since is None else killed_at - since)
        if message["status"] == "interrupted":
            gone_on_with(server, each, kept)
            course.continued += 1


def after_worker(server: RunningServer, course: Course, heard: list[Heard]) -> None:
    """The same server, whose worker was killed; all that was streamed is there."""
    for each in heard:
        message = message_of(server, each)
        assert text_in(message) == each.text
        assert message["status"] in ("error", "stopped", "length", "done")
        if message["status"] == "error":
            assert message["error"]["code"] == "engine_gone"
            course.broken += bool(each.text)
            gone_on_with(server, each, each.text)
            course.continued += 1
    for thread, waiting in course.kept.queued.items():
        for id in list(waiting):
            path = f"{CONVERSATIONS}/threads/{thread}/queue/{id}"
            assert request(server, "DELETE", path).status in (
                204,
                404,
            )  # what waits is sent after a `continue`
    course.kept.queued.clear()
    for thread in course.kept.memory_only:
        request(server, "DELETE", f"{CONVERSATIONS}/threads/{thread}")
    course.kept.memory_only.clear()


def kill_worker(server: RunningServer, chance: random.Random, heard: list[Heard]) -> None:
    """One that is writing, shared or private."""
    purposes = {"private" if each.is_memory_only else "chat" for each in heard if each.is_writing}
    purpose = chance.choice(sorted(purposes))
    (pid,) = [row["pid"] for row in workers(server) if row["pid"] and row["purpose"] == purpose]
    os.kill(pid, signal.SIGKILL)

    def is_noticed() -> bool:
        return any(each.ended and each.ended["status"] == "error" for each in heard)

    wait_until(is_noticed)


def rounds_on(
    server: RunningServer, course: Course, chance: random.Random, left: int
) -> tuple[list[Heard], float]:
    """Kill the workers of this server now and then, and at last itself. Gives what it was saying, and when it ended."""
    while left > 1 and chance.random() < 0.3:
        left -= 1
        with talking(server, course.kept, f"w{left}") as windows:
            windows.wait_for_words()
            time.sleep(chance.uniform(0, 0.5))
            kill_worker(server, chance, windows.heard)
        after_worker(server, course, windows.heard)
        course.killed["worker"] += 1
    with talking(server, course.kept, f"s{left}") as windows:
        windows.wait_for_words()
        time.sleep(chance.uniform(0, 0.6))
        killed_at = time.monotonic()
        server.process.kill()
        server.process.wait()
    course.killed["server"] += 1
    return windows.heard, killed_at


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(20, marks=pytest.mark.timeout(300)),
        pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
async def test_nothing_acknowledged_is_lost_and_answers_are_gone_on_with(tmp_path: Path, rounds: int) -> None:
    course, chance = Course(), random.Random(rounds)
    home = tmp_path / "home"
    heard: list[Heard] = []
    killed_at = 0.0
    while (left := rounds - course.killed.total()) > 0:
        with running_server(home, settings=SETTINGS) as server:
            after_server(server, course, heard, killed_at)
            heard, killed_at = rounds_on(server, course, chance, left)
    with running_server(home, settings=SETTINGS) as server:
        after_server(server, course, heard, killed_at)

    assert course.kept.wrong == []
    await check_store(home, course.kept)
    assert course.killed["server"] > rounds // 3 and course.killed["worker"] > rounds // 10
    assert course.broken > rounds // 10 and course.continued > rounds
    lost = sorted(course.lost_s)
    logging.getLogger(__name__).info(
        "lost at most %.3f s, half of them %.3f s", lost[-1], lost[len(lost) // 2]
    )
    assert lost[-1] < PROMISED_S + SLACK_S, lost[-5:]


async def check_store(home: Path, kept: Acknowledged) -> None:
    """Every question and edit of all rounds is there, and each draft as it was last; the file is sound."""

    def look(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
        parts = connection.execute(select(messages.c.id, messages.c.parts))
        drafts = connection.execute(select(threads.c.id, threads.c.draft))
        return {row.id: row.parts for row in parts}, {row.id: row.draft for row in drafts}

    database = open_store(home)
    parts, drafts = await database.read(look)
    problems = database.problems()
    await database.close()
    assert problems == []
    assert len(kept.texts) > 20
    assert [id for id, said in kept.texts.items() if f'"{said}"' not in parts.get(id, "")] == []
    for thread, (acknowledged, tried) in kept.drafts.items():
        assert acknowledged <= int(drafts[thread] or 0) <= tried


async def test_what_waits_is_always_kept_somewhere(tmp_path: Path) -> None:
    """After every single commit, whatever a kill would leave holds it: in the line, or as a question."""
    async with house_talks(tmp_path) as talk:
        thread = await talk.thread()
        talk.script.gate.clear()
        await talk.ask(thread, "one")
        queued = await talk.wait_in_line(thread, "two")
        places: list[int] = []
        beside = Database(talk.house.paths.store, KEY)

        def look() -> None:
            with beside.transaction("kernel") as connection:
                waits = connection.execute(queue.select().where(queue.c.id == queued.id)).all()
                asked = connection.execute(messages.select().where(messages.c.parts.contains('"two"'))).all()
            places.append(len(waits) + len(asked))

        talk.house.database.after_write.append(look)
        talk.script.gate.set()
        wanted = ["one", "well, hello", "two", "well, hello"]
        async with asyncio.timeout(20):
            while await talk.texts(thread) != wanted or not talk.rooms.runs.is_idle:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        talk.house.database.after_write.remove(look)
        await beside.close()
        assert set(places) == {1}
