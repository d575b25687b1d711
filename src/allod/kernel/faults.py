"""What goes wrong in code of an extension: what counts as its mistake, and what can be said of it."""

from __future__ import annotations

import asyncio
import traceback

from allod.sdk.errors import AllodError


class Misbehaved(Exception):
    """Code of an extension did what only the server itself may do."""


def is_fault(error: BaseException) -> bool:
    """Whether `error` is a mistake of the code that was called, and not the server's own wish to stop."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() == 0  # nobody cancelled us: it was raised
    return isinstance(error, (Exception, SystemExit))


class Mistyped(Exception):
    """Something that was contributed is not what it should be."""


def words_of(error: BaseException) -> str:
    """What can be said of an error: what was raised on purpose, and of others where they came from. Their own words may
    quote what the extension was working on.
    """
    if isinstance(error, AllodError):
        return error.detail
    if isinstance(error, (Mistyped, Misbehaved)):
        return str(error)
    if isinstance(error, ImportError):
        return f"{type(error).__name__}: {error.name}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}"
