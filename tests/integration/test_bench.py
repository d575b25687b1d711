"""`make bench` runs to its end and says all that it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = [
    *(f"tokens/s through Allod / bare, {streams}" for streams in ("1 stream", "4 streams", "16 streams")),
    *(
        f"added to first token {percentile}, {streams}"
        for streams in ("1 stream", "4 streams", "1 stream, scripted worker", "4 streams, scripted worker")
        for percentile in ("p50", "p99")
    ),
    "CPU for a chunk at 32 paced streams, allod",
    "requests/s without streaming, bare",
    "requests/s without streaming, allod",
    "CPU for a request without streaming, allod",
    "start to /health",
    "start to first token, more than the bare worker",
    "memory of the idle server",
    *(
        f"{what}, 5,000 rows: encrypted / plain"
        for what in (
            "insert",
            "single-row transactions",
            "read a page of 50",
            "read 2,000 in a row",
            "full text, newest 20",
        )
    ),
    "a new root key",
    "an empty list of stages, for a run",
    "an event published, nobody listening",
    "an event published, into the stream of /api/events",
    "an event recorded in a transaction, more",
    "a job from start to done",
    "append, the 500th message / the 10th",
    "open a thread of 500 messages",
    "a page of 50 from its middle",
    "search 5,000 messages, newest first, median of 100",
    "the slowest of them",
    "best match first, a word in every message",
    "a fact from turn 3 told at turn 60, retrieval on",
    "the same, retrieval off",
    "tokens of what was said before read from the cache, 3 turns in 2048 tokens",
    "turns with a new cut",
]
WITH_GOAL = 7 + 1 + 1 + 3 + 1 + 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_gives_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(file)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text("utf-8"))
    assert {"allod", "python", "system", "cores", "load_average_before", "began", "took_s"} <= set(
        told["machine"]
    )
    figures = [figure for figure in told["figures"] if "nginx" not in figure["name"]]
    assert [figure["name"] for figure in figures] == FIGURES
    for figure in figures:
        assert set(figure) == {"name", "value", "unit", "goal", "is_better", "note", "is_met"}
        assert isinstance(figure["value"], float)
        assert figure["name"] in done.stdout
    assert sum(figure["goal"] is not None for figure in figures) == WITH_GOAL


@pytest.mark.slow
def test_one_measure_alone(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--only", "chunks", "--json", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert {figure["unit"] for figure in json.loads(file.read_text("utf-8"))["figures"]} == {"µs"}
