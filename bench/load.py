"""The load generator, a process of its own: `python -m bench.load`, a plan in JSON on stdin, what happened on stdout.

A plan: "places" (asked in turn, in the other order every other round), "streams" (requests at once), "rounds",
"bodies" (by place; `{n}` in a text becomes a number that no other request has), "watch" (name -> pid whose CPU time is
read), and for a flood "flood_s": then each connection asks again and again for so long, in each round.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.client import Connection, Place, connect, message


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond; of threads that have ended, nothing."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


class Side:
    """One place, and what it is asked."""

    def __init__(self, place: Place, body: dict[str, Any], numbers: Iterator[int]) -> None:
        self._place = place
        self._text = json.dumps(body)
        self._numbers = numbers
        self.name = place.name

    def request(self) -> bytes:
        """The next request."""
        return message(json.loads(self._text.replace("{n}", str(next(self._numbers)))))

    async def connect(self, count: int) -> list[Connection]:
        """So many new connections: llama.cpp now and then closes one right after an answer."""
        return [await connect(self._place) for _ in range(count)]


async def streams(side: Side, count: int) -> dict[str, Any]:
    """So many requests at once, each read to its end."""
    connections = await side.connect(count)
    requests = [side.request() for _ in range(count)]
    began = time.perf_counter()
    await asyncio.gather(*(c.ask(request) for c, request in zip(connections, requests, strict=True)))
    for connection in connections:
        connection.close()
    return {
        "wall_s": max(c.end_s for c in connections) - began,
        "first_s": [c.first_s - c.began_s for c in connections if c.first_s],
        "frames": sum(c.frames for c in connections),
        "requests": count,
    }


async def flood(side: Side, count: int, seconds: float) -> dict[str, Any]:
    """The same request again and again on so many connections."""
    connections = await side.connect(count)
    request = side.request()
    began = time.perf_counter()

    async def repeat(connection: Connection) -> int:
        asked = 0
        while time.perf_counter() - began < seconds:
            await connection.ask(request)
            asked += 1
        return asked

    asked = sum(await asyncio.gather(*map(repeat, connections)))
    for connection in connections:
        connection.close()
    return {"wall_s": time.perf_counter() - began, "requests": asked, "first_s": [], "frames": 0}


async def run(plan: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Place -> what happened in each round. One more round goes before, and is thrown away."""
    numbers = itertools.count(int(time.time() * 1000) % 1_000_000_000)
    sides = [Side(Place(**place), plan["bodies"][place["name"]], numbers) for place in plan["places"]]
    told: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number in range(plan["rounds"] + 1):
        for side in sides if number % 2 else reversed(sides):
            before = {name: cpu_s(pid) for name, pid in plan["watch"].items()}
            own = time.process_time()
            seconds = plan.get("flood_s")
            happened = await (
                flood(side, plan["streams"], seconds) if seconds else streams(side, plan["streams"])
            )
            happened["cpu_s"] = {name: cpu_s(pid) - before[name] for name, pid in plan["watch"].items()}
            happened["cpu_s"]["client"] = time.process_time() - own
            if number:
                told[side.name].append(happened)
    return told


def main(arguments: Sequence[str]) -> None:
    """Do what the plan on stdin says."""
    json.dump(uvloop.run(run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main(sys.argv)
