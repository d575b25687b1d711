"""After a crash: what was being written is marked as interrupted, with all that was kept of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.shelf import Shelf
from allod.extensions.conversational.store import lists
from allod.extensions.conversational.tree import change
from allod.sdk.context import Context


async def recover(context: Context[Any], shelf: Shelf) -> None:
    """Mark it. It can be continued."""
    messages = await context.store.read(lists.unfinished)
    runs = await context.store.read(lists.unfinished_runs)
    if not messages and not runs:
        return

    def work(rows: Rows) -> None:
        for id in messages:
            change(rows, rows.message(id), status="interrupted")
        for id in runs:
            rows.put_run(replace(rows.run(id), state="interrupted", ended_at=time.time()))

    await shelf.store.write(work)
    context.log.info("%d answers were cut short when the server ended", len(messages))
