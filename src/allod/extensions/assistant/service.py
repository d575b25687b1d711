"""What other extensions get: an assistant as a chat uses it, its instructions filled in."""

from __future__ import annotations

from datetime import datetime

from allod.extensions.assistant.instructions import filled
from allod.extensions.assistant.settings import AssistantSettings
from allod.extensions.assistant.store import KeptAssistants
from allod.sdk.context import Context
from allod.sdk.services import Assistant


class OfferedAssistants:
    """Implements `sdk.services.Assistants`."""

    def __init__(self, context: Context[AssistantSettings], kept: KeptAssistants) -> None:
        self._context = context
        self._kept = kept

    async def get(self, assistant: str | None = None, version: int | None = None) -> Assistant:
        """An assistant by its id or name, the default one where none is named. Raises NotFound."""
        found = await self._kept.get(assistant, version)
        content = found.content
        now = datetime.now().astimezone()
        return Assistant(
            id=found.id,
            version=found.version,
            name=content.name,
            instructions=filled(content.instructions, self._context.settings.user_name, now),
            model=content.model,
            parameters=content.parameters.model_dump(),
            tools=tuple(content.tools),
            knowledge=tuple(content.knowledge),
            memory_only=content.memory_only,
        )
