"""What is shown while one waits: a model that loads, a long prompt that is read. On stderr, if it is a terminal."""

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

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._poller = threading.Thread(target=self._watch_loads, daemon=True)

    def __enter__(self) -> Waiting:
        if sys.stderr.isatty():
            self._poller.start()
        else:
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

    def prompt(self, told: dict[str, Any]) -> None:
        """Show how much of the prompt has been read; `told` is the server's `prompt_progress`."""
        total = int(told.get("total") or 0)
        cached = int(told.get("cache") or 0)
        if total - cached >= _LONG_PROMPT_TOKENS:
            self._show(
                say("reading the prompt, {tokens} tokens", tokens=total),
                int(told.get("processed") or 0) / total,
            )

    def _watch_loads(self) -> None:
        while not self._over.wait(_POLL_S):
            try:
                workers = self._client.request("GET", "/api/llamacpp/workers", timeout_s=5)["workers"]
            except (Failure, KeyError, TypeError):
                return  # a server without this route, or none any more: the request itself will tell
            loading = [worker for worker in workers if worker.get("state") == "starting"]
            loading.sort(key=lambda worker: worker.get("model") != self._model)
            if loading:
                name = printable(str(loading[0].get("model")))
                self._show(say("loading {model}", model=name), float(loading[0].get("progress") or 0))

    def _show(self, text: str, fraction: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._over.is_set():
                return
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    TextColumn("{task.percentage:>3.0f} %"),
                    TimeElapsedColumn(),
                    console=console(stderr=True),
                    transient=True,
                )
                self._task = self._progress.add_task(text, total=1.0)
                self._progress.start()
            if self._task is not None:
                self._progress.update(self._task, description=text, completed=min(fraction, 1.0))
