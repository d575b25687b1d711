"""Conversations: threads and their trees, runs that live in the server, search, and what the model is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allod.extensions.conversational.settings import ConversationalSettings
from allod.extensions.conversational.store.tables import MIGRATIONS
from allod.sdk.extension import Extension, Manifest
from allod.sdk.services import Threads
from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from fastapi import APIRouter

    from allod.extensions.conversational.desk import Desk
    from allod.extensions.conversational.eraser import Eraser
    from allod.extensions.conversational.idle import Idle
    from allod.extensions.conversational.private import Private
    from allod.extensions.conversational.runs import Runs
    from allod.extensions.conversational.shelf import Shelf
    from allod.sdk.context import Context
    from allod.sdk.stage import Stage


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the routes need."""

    context: Context[ConversationalSettings]
    shelf: Shelf
    runs: Runs
    desk: Desk
    eraser: Eraser
    idle: Idle
    private: Private


class Conversational(Extension[ConversationalSettings]):
    """Keeps conversations, and holds them."""

    manifest = Manifest(
        name="conversational",
        summary="Keeps conversations, encrypted, and has them answered in the server, whoever listens.",
        after=("assistant", "llamacpp"),
    )

    async def start(self) -> None:
        """Mark what a crash has cut short, and begin what runs in the background."""
        from allod.extensions.conversational.compose import Composer
        from allod.extensions.conversational.desk import Desk
        from allod.extensions.conversational.eraser import Eraser
        from allod.extensions.conversational.idle import Idle
        from allod.extensions.conversational.private import Private
        from allod.extensions.conversational.recovery import recover
        from allod.extensions.conversational.runs import Runs
        from allod.extensions.conversational.shelf import Shelf

        context = self.context
        shelf = Shelf(context.store, context.events, context.blobs)
        await shelf.store.sweep()
        await recover(context, shelf)
        private = Private(context, shelf)
        self.composer = Composer(context)
        runs = Runs(context, shelf, self.composer, private)
        desk = Desk(context, shelf, runs, private)
        self.rooms = Rooms(
            context, shelf, runs, desk, Eraser(context, desk), Idle(context, shelf, runs), private
        )
        self._tasks = [
            asyncio.create_task(self.rooms.eraser.run(), name="eraser"),
            asyncio.create_task(self.rooms.idle.run(), name="idle"),
            asyncio.create_task(private.run(desk), name="private"),
        ]

    async def stop(self) -> None:
        """End all runs where they are; what is in memory only is gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.rooms.runs.close()
        for thread in self.rooms.shelf.memory.rows.threads():
            await self.rooms.desk.delete(thread.id)

    def migrations(self) -> Sequence[Migration]:
        """Threads, messages, runs, and their words."""
        return MIGRATIONS

    def stages(self) -> Sequence[Stage]:
        """Composes the prompts of its own runs."""
        return [self.composer]

    def services(self) -> Mapping[type, object]:
        """Keeps what programs want to have kept."""
        from allod.extensions.conversational.keeping import Keeping

        return {Threads: Keeping(self.rooms.shelf.store)}

    def router(self) -> APIRouter:
        """Routes under /api/conversational."""
        from allod.extensions.conversational.routes import build

        return build(self.rooms)
