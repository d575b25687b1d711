"""The lossless export: JSON that import_json.py reads again. One thread on a line, so that any number can be streamed.

{"allod": "threads", "schema": 1, "exported_at": 1795547640.0, "threads": [
{…},
{…}
]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from allod.extensions.conversational.exported import SCHEMA, ExportedThread

END = b"\n]}\n"
"""What follows the last thread."""


def beginning(exported_at: float) -> bytes:
    """What stands before the first thread. `exported_at` in seconds since 1970."""
    head = json.dumps({"allod": "threads", "schema": SCHEMA, "exported_at": exported_at, "threads": []})
    return head.removesuffix("]}").encode()


def as_line(thread: ExportedThread, *, is_first: bool) -> bytes:
    """One thread, with what parts it from the one before."""
    return (b"\n" if is_first else b",\n") + thread.model_dump_json().encode()


def as_json(threads: Iterable[ExportedThread], exported_at: float) -> Iterator[bytes]:
    """A whole file, thread by thread; only one is in memory at a time. `exported_at` in seconds since 1970."""
    yield beginning(exported_at)
    for number, thread in enumerate(threads):
        yield as_line(thread, is_first=number == 0)
    yield END
