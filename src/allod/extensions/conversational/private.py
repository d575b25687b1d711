"""Ends what threads in memory only leave in other processes, and those threads themselves when nobody needs them."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

from allod.extensions.conversational.settings import ConversationalSettings
from allod.extensions.conversational.shelf import Shelf
from allod.sdk.chat import Purpose
from allod.sdk.context import Context
from allod.sdk.engine import ModelId
from allod.sdk.errors import AllodError, NotFound

if TYPE_CHECKING:
    from allod.extensions.conversational.desk import Desk

_LOOK_EVERY_S = 30


class Private:
    """Knows which models have read words of such threads: their workers end with the last of them."""

    def __init__(self, context: Context[ConversationalSettings], shelf: Shelf) -> None:
        self._context = context
        self._shelf = shelf
        self._told: set[tuple[ModelId, Purpose]] = set()

    def told(self, model: ModelId, purpose: Purpose) -> None:
        """A worker of this model reads something now."""
        self._told.add((model, purpose))

    async def gone(self) -> None:
        """A thread in memory only is gone. After the last one, nothing but this server has held its words."""
        if self._shelf.memory.rows.threads():
            return
        for told in tuple(self._told):
            await self._context.models.unload(*told)
            self._told.discard(told)
        gc.collect()  # a run that was stopped hangs in a circle with its own frames, and holds its words

    async def run(self, desk: Desk) -> None:
        """For ever: let threads end that nobody has touched for long."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            since = time.time() - self._context.settings.memory_only_minutes * 60
            for thread in self._shelf.memory.rows.threads():
                if self._shelf.memory.rows.touched_at(thread.id) < since:
                    try:
                        await desk.delete(thread.id)
                    except NotFound:
                        continue  # somebody was faster
                    except AllodError as error:
                        self._context.log.warning("a thread in memory could not be ended: %s", error.detail)
