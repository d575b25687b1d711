"""Logs to stderr. No text of a message gets here, and none by the back door of an exception's own words."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from types import TracebackType
from typing import Any

from allod.sdk.errors import AllodError

_log = logging.getLogger("allod")


class _Formatter(logging.Formatter):
    """Prints where an exception came from and its type, but not its words: they may quote a request."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        kind, _, trace = ei
        lines = []
        while trace is not None:
            code = trace.tb_frame.f_code
            lines.append(f"    {code.co_filename}:{trace.tb_lineno} in {code.co_name}")
            trace = trace.tb_next
        return "\n".join([f"  {kind.__name__ if kind else 'no exception'} at", *lines])


def configure(level: int = logging.INFO) -> None:
    """Send all of Allod's logs, and the warnings of its libraries, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("allod").setLevel(level)
    sys.excepthook = _uncaught
    threading.excepthook = lambda said: _uncaught(said.exc_type, said.exc_value, said.exc_traceback)


def guard(loop: asyncio.AbstractEventLoop) -> None:
    """What nobody caught on `loop` is logged like all else: asyncio's own way quotes the exception's words."""

    def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        name = task.get_name() if isinstance(task, asyncio.Task) else "a callback"
        error = context.get("exception")
        _log.error("%s ended with an error that nobody took", name, exc_info=error if error else None)

    loop.set_exception_handler(told)


def said_of(error: BaseException) -> str:
    """An error in a line: the words of those that were raised on purpose, of others only the kind."""
    return error.detail if isinstance(error, AllodError) else type(error).__name__


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is KeyboardInterrupt:
        return
    _log.critical("nobody took this error", exc_info=error if error is not None else (kind, kind(), trace))
