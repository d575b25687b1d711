"""What is shown while one waits: a place in line, a model that loads, a long prompt that is read. On stderr, if it is
a terminal.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from allod.cli.client import Client
from allod.cli.failures import Failure
from allod.cli.output import console, printable
from allod.cli.words import say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

_POLL_S = 0.2
_LONG_PROMPT_TOKENS = 256


class Waiting:
    """Progress bars that appear when there is something to tell and are wiped away at the end of the context."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Waiting:
        if not sys.stderr.isatty():
            self._over.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The waiting is over: wipe the bar away."""
        with self._lock:
            self._over.set()
            progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def queued(self, place: int) -> None:
        """Show the place in the line for a model; 0 is none."""
        if place:
            self._show(say("waiting in line, place {place}", place=place), None)

    def loading(self, model: str, fraction: float) -> None:
        """Show how much of a model is loaded."""
        self._show(say("loading {model}", model=printable(model)).rstrip(), fraction)

    def reading(self, processed: int, total: int, cached: int) -> None:
        """Show how many tokens of the prompt have been read, if reading takes long."""
        if total - cached >= _LONG_PROMPT_TOKENS:
            self._show(say("reading the prompt, {tokens} tokens", tokens=total), processed / total)

    def watch_loads(self, client: Client, model: str) -> None:
        """Ask the server now and then whether a model loads, until the waiting is over: /v1 does not tell it."""
        if not self._over.is_set():
            threading.Thread(target=self._watch_loads, args=(client, model), daemon=True).start()

    def _watch_loads(self, client: Client, model: str) -> None:
        while not self._over.wait(_POLL_S):
            try:
                workers: list[dict[str, Any]] = client.request("GET", "/api/llamacpp/workers", timeout_s=5)[
                    "workers"
                ]
            except (Failure, KeyError, TypeError):
                return  # a server without this route, or none any more: the request itself will tell
            loading = [worker for worker in workers if worker.get("state") == "starting"]
            loading.sort(key=lambda worker: worker.get("model") != model)
            if loading:
                self.loading(str(loading[0].get("model")), float(loading[0].get("progress") or 0))

    def _show(self, text: str, fraction: float | None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._over.is_set():
                return
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    TextColumn("{task.fields[percent]}", markup=False),
                    TimeElapsedColumn(),
                    console=console(stderr=True),
                    transient=True,
                )
                self._task = self._progress.add_task(text, total=1.0, percent="")
                self._progress.start()
            if self._task is not None:
                self._progress.update(self._task, description=text, **_measured(fraction))


def _measured(fraction: float | None) -> dict[str, Any]:
    """How a bar shows a fraction; None is a wait of which nobody knows how long it takes."""
    if fraction is None:
        return {"total": None, "percent": ""}
    fraction = min(fraction, 1.0)
    return {"total": 1.0, "completed": fraction, "percent": f"{fraction:4.0%}"}
