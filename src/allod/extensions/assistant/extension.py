"""Assistants: instructions, a model, parameters, tools and knowledge under one name, with all their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from allod.extensions.assistant.presets import BUILT_IN
from allod.extensions.assistant.service import OfferedAssistants
from allod.extensions.assistant.settings import AssistantSettings
from allod.extensions.assistant.store import MIGRATIONS, KeptAssistants
from allod.sdk import services
from allod.sdk.context import Context
from allod.sdk.extension import Extension, Manifest
from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from fastapi import APIRouter


class AssistantExtension(Extension[AssistantSettings]):
    """Keeps assistants, and hands them to chats."""

    manifest = Manifest(
        name="assistant",
        summary="Keeps your assistants: how a model is to answer, and with what.",
    )

    def __init__(self, context: Context[AssistantSettings]) -> None:
        super().__init__(context)
        self._assistants = KeptAssistants(context.store, context.events)

    async def start(self) -> None:
        """There is always one."""
        await self._assistants.ensure(BUILT_IN)

    def migrations(self) -> Sequence[Migration]:
        """The two tables."""
        return MIGRATIONS

    def services(self) -> Mapping[type, object]:
        """The assistants, ready to be used."""
        return {services.Assistants: OfferedAssistants(self.context, self._assistants)}

    def router(self) -> APIRouter:
        """Routes under /api/assistant."""
        from allod.extensions.assistant.routes import build

        return build(self._assistants)
