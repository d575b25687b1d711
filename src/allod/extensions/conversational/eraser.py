"""Lets what was deleted be gone from the disk too, in the background; empties the trash when its time has come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from allod.extensions.conversational.settings import ConversationalSettings
from allod.extensions.conversational.store import lists
from allod.extensions.conversational.store.search import optimize
from allod.sdk.context import Context
from allod.sdk.errors import AllodError, NotFound

if TYPE_CHECKING:
    from allod.extensions.conversational.desk import Desk

_TOGETHER_S = 0.5
_LOOK_EVERY_S = 3600
_AGAIN_S = 60
_DAY_S = 86400


class Eraser:
    """Set `wanted` after something was deleted for good."""

    def __init__(self, context: Context[ConversationalSettings], desk: Desk) -> None:
        self._context = context
        self._desk = desk
        self.wanted = asyncio.Event()
        self.wanted.set()  # what was deleted shortly before the last end may not be erased yet

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._empty_trash()
                await self._erase()
            except Exception as error:  # the disk is full, say
                said = error.detail if isinstance(error, AllodError) else type(error).__name__
                self._context.log.warning("what was deleted could not be erased yet: %s", said)
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self.wanted.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_TOGETHER_S)  # deletions come in rows

    async def _empty_trash(self) -> None:
        if not (days := self._context.settings.trash_days):
            return
        before = time.time() - days * _DAY_S
        for thread in await self._context.store.read(lambda connection: lists.expired(connection, before)):
            try:
                await self._desk.delete(thread)
            except NotFound:
                continue  # somebody was faster
            self.wanted.set()

    async def _erase(self) -> None:
        """The words of deleted texts leave the index, and their pages the write-ahead log."""
        if self.wanted.is_set():
            self.wanted.clear()
            try:
                await self._context.store.write(optimize)
                await self._context.store.scrub()
            except BaseException:
                self.wanted.set()
                raise
