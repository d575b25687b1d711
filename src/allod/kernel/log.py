"""Logs to stderr. No text of a message gets here, and none by the back door of an exception's own words."""

from __future__ import annotations

import logging
import sys
from types import TracebackType


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
