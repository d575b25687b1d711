"""Notices code that holds the event loop, so that nobody else gets on, and says whose it is.

Nothing can stop such code from within its own process; but who it is can be said, by a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

_BEAT_S = 0.5
_log = logging.getLogger("allod.watchdog")


class Watchdog:
    """Looks at the loop that it was started on. `packages` gives extensions' names and the modules they are in."""

    def __init__(self, packages: Callable[[], Iterable[tuple[str, str]]], patience_s: float = 2) -> None:
        self._packages = packages
        self._patience_s = patience_s
        self._beaten_at = time.monotonic()
        self._has_ended = threading.Event()
        self._beat: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._take_beat()
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._has_ended.set()
        if self._beat is not None:
            self._beat.cancel()

    def _take_beat(self) -> None:
        self._beaten_at = time.monotonic()
        self._beat = self._loop.call_later(_BEAT_S, self._take_beat)

    def _watch(self) -> None:
        told_of = 0.0
        while not self._has_ended.wait(_BEAT_S):
            beaten_at = self._beaten_at
            held_s = time.monotonic() - beaten_at - _BEAT_S
            if held_s > self._patience_s and beaten_at != told_of:
                told_of = beaten_at
                self._tell(held_s)

    def _tell(self, held_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        names = list(self._packages())
        owner, place = "", ""
        while frame is not None and not owner:
            place = place or f"{frame.f_code.co_filename}:{frame.f_lineno}"
            owner = _owner_of(frame, names)
            frame = frame.f_back
        if owner:
            _log.error(
                "the extension %s has held everything up for %.1f s (at %s); `allod extensions disable %s` stops it",
                owner,
                held_s,
                place,
                owner,
            )
        else:
            _log.warning("everything has been held up for %.1f s, at %s", held_s, place)


def _owner_of(frame: FrameType, names: Iterable[tuple[str, str]]) -> str:
    module = str(frame.f_globals.get("__name__", ""))
    for name, package in names:
        if module == package or module.startswith(f"{package}."):
            return name
    return ""
