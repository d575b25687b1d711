"""The measurements. Each gives its figures; "quick" ones take few samples and prove only that it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from allod.testing.server import running_server
from bench import conversations, remembering, store
from bench.figures import Figure, percentile
from bench.servers import (
    Pair,
    bare_worker,
    first_token_s,
    load,
    nginx,
    real,
    rss_bytes,
    scripted,
    worker_command,
)

Rounds = list[dict[str, Any]]
_QUESTION = "Question {n}: tell me about the river, the hill and the house that stands on it."
_RPS_CONNECTIONS = 32
_PACED_STREAMS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """Where files may be written, and whether few samples do."""

    folder: Path
    is_quick: bool

    def samples(self, count: int) -> int:
        """So many, or few."""
        return max(1, count // 20) if self.is_quick else count


def _bodies(text: str, names: Sequence[str] = ("bare", "allod"), **fields: Any) -> dict[str, Any]:
    """The same request for all places. A worker is told what Allod tells it too: to report the prompt's progress."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, "temperature": 0, **fields}
    asked = {**body, "return_progress": True}
    return {name: body if name == "allod" else asked for name in names}


def throughput(setting: Setting) -> Iterator[Figure]:
    """Tokens per second through Allod against the bare worker."""
    with real(setting.folder) as pair:
        for streams, rounds, length in ((1, 20, 128), (4, 14, 64), (16, 8, 64)):
            tokens = 16 if setting.is_quick else length
            bodies = _bodies(_QUESTION, max_tokens=tokens, ignore_eos=True)
            told = load(pair, bodies, streams=streams, rounds=setting.samples(rounds))
            speed = {
                name: [tokens * streams / one["wall_s"] for one in rounds] for name, rounds in told.items()
            }
            ratios = [a / b for a, b in zip(speed["allod"], speed["bare"], strict=True)]
            yield Figure(
                f"tokens/s through Allod / bare, {_streams(streams)}",
                median(ratios),
                "",
                0.99,
                "higher",
                f"{median(speed['allod']):.1f} / {median(speed['bare']):.1f} tokens/s; ratios from"
                f" {min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds;"
                f" {_cpu_share(told['allod'], 'server'):.1%} of a core in the server",
            )


def first_token(setting: Setting) -> Iterator[Figure]:
    """Time to the first token that Allod adds: real worker, then a scripted one that answers at once."""
    with real(setting.folder) as pair:
        for streams, rounds in ((1, 200), (4, 100)):
            yield from _added(pair, setting, streams, rounds, "", (1, 4))
    with scripted(setting.folder) as pair:
        for streams, rounds in ((1, 400), (4, 200)):
            yield from _added(pair, setting, streams, rounds, ", scripted worker", (None, None))


def _added(
    pair: Pair,
    setting: Setting,
    streams: int,
    rounds: int,
    which: str,
    goals: tuple[float | None, float | None],
) -> Iterator[Figure]:
    bodies = _bodies(_QUESTION, max_tokens=2, ignore_eos=True)
    told = load(pair, bodies, streams=streams, rounds=setting.samples(rounds))
    each = {name: [1000 * median(one["first_s"]) for one in rounds] for name, rounds in told.items()}
    every = {
        name: [1000 * first for one in rounds for first in one["first_s"]] for name, rounds in told.items()
    }
    name, samples = f"{_streams(streams)}{which}", len(every["allod"])
    yield Figure(
        f"added to first token p50, {name}",
        median(allod - bare for allod, bare in zip(each["allod"], each["bare"], strict=True)),
        "ms",
        goals[0],
        note=f"beside {median(every['bare']):.2f} ms of the bare worker; {samples} requests each",
    )
    allod, bare = percentile(every["allod"], 99), percentile(every["bare"], 99)
    yield Figure(
        f"added to first token p99, {name}", allod - bare, "ms", goals[1], note=f"{allod:.2f} − {bare:.2f} ms"
    )


def chunks(setting: Setting) -> Iterator[Figure]:
    """CPU time of the server for one chunk of many paced streams."""
    with scripted(setting.folder) as pair, nginx(setting.folder, pair.socket) as other:
        told = load(
            pair,
            _bodies("paced", ("bare", "allod", "nginx"), max_tokens=16),
            streams=_PACED_STREAMS,
            rounds=setting.samples(10),
            beside=other,
        )
        for name, process in (("allod", "server"), ("nginx", "nginx")):
            if name in told:
                rounds = told[name]
                each = [1e6 * one["cpu_s"][process] / one["frames"] for one in rounds]
                rate = median(one["frames"] / one["wall_s"] for one in rounds)
                yield Figure(
                    f"CPU for a chunk at {_PACED_STREAMS} paced streams, {name}",
                    median(each),
                    "µs",
                    26 if name == "allod" else None,
                    note=f"{rate:,.0f} chunks/s; from {min(each):.1f} to {max(each):.1f} µs in {len(each)} rounds;"
                    f" {_shares(rounds)}",
                )


def requests(setting: Setting) -> Iterator[Figure]:
    """Whole answers a second where the worker takes no time."""
    with scripted(setting.folder) as pair, nginx(setting.folder, pair.socket) as other:
        bodies = _bodies("Hello", ("bare", "allod", "nginx"), max_tokens=16)
        bodies["allod"] = {**bodies["allod"], "stream": False}
        told = load(
            pair,
            bodies,
            streams=_RPS_CONNECTIONS,
            rounds=setting.samples(8),
            flood_s=0.3 if setting.is_quick else 2,
            beside=other,
        )
        for name, rounds in told.items():
            rate = [one["requests"] / one["wall_s"] for one in rounds]
            yield Figure(
                f"requests/s without streaming, {name}",
                median(rate),
                "/s",
                6000 if name == "allod" else None,
                "higher",
                f"from {min(rate):,.0f} to {max(rate):,.0f}; {_shares(rounds)}",
            )
        each = [1e6 * one["cpu_s"]["server"] / one["requests"] for one in told["allod"]]
        yield Figure("CPU for a request without streaming, allod", median(each), "µs", note="of the server")


def start(setting: Setting) -> Iterator[Figure]:
    """Start-up and memory of a server as anybody starts it."""
    health: list[float] = []
    first: list[float] = []
    bare: list[float] = []
    rss: list[float] = []
    for number in range(2 if setting.is_quick else 8):
        with running_server(setting.folder / "start") as server:
            token_s = server.started_s + first_token_s(server.port)
            command = worker_command(server)
            time.sleep(0.5)
            rss_now = rss_bytes(server) / 1e6
        began = time.perf_counter()
        with bare_worker(command, setting.folder) as path:
            first_token_s(path)
            bare_s = time.perf_counter() - began
        if number:  # the first start reads files that the others find in memory
            health.append(server.started_s)
            first.append(token_s)
            bare.append(bare_s)
            rss.append(rss_now)
    spread = f"from {min(health):.2f} to {max(health):.2f} in {len(health)} starts"
    yield Figure("start to /health", median(health), "s", 0.98, note=spread)
    yield Figure(
        "start to first token, more than the bare worker",
        median(first) - median(bare),
        "s",
        0.5,
        note=f"{median(first):.2f} − {median(bare):.2f} s",
    )
    yield Figure("memory of the idle server", median(rss), "MB", 90, note="resident, without its worker")


def kept(setting: Setting) -> Iterator[Figure]:
    """The store, encrypted against plain; a new key; events, jobs and stages."""
    setting.folder.mkdir(exist_ok=True)
    yield from store.encryption(5_000 if setting.is_quick else 100_000, setting.folder)
    yield from store.rekeying(8 if setting.is_quick else 256, setting.folder)
    yield from store.machinery(setting.samples(20_000), setting.folder)


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count > 1 else ''}"


def _cpu_share(rounds: Rounds, process: str) -> float:
    return float(sum(one["cpu_s"][process] for one in rounds) / sum(one["wall_s"] for one in rounds))


def _shares(rounds: Rounds) -> str:
    """How busy each process was, of one core."""
    names: Mapping[str, Any] = rounds[0]["cpu_s"]
    return "of a core: " + ", ".join(f"{name} {_cpu_share(rounds, name):.0%}" for name in names)


def conversations_(setting: Setting) -> Iterator[Figure]:
    """Long threads, search, and what a model is told of them."""
    yield from conversations.conversations(5_000 if setting.is_quick else 100_000, setting.folder)
    yield from remembering.remembering()
    yield from remembering.cached(setting.folder, 3 if setting.is_quick else 60)


MEASURES: Mapping[str, Callable[[Setting], Iterator[Figure]]] = {
    "throughput": throughput,
    "first-token": first_token,
    "chunks": chunks,
    "requests": requests,
    "start": start,
    "store": kept,
    "conversations": conversations_,
}
"""By the names that --only takes."""
