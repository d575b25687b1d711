"""Who answers in a thread: the assistant that is named, or the default one, or nobody in particular."""

from __future__ import annotations

from typing import Any

from allod.extensions.conversational.records import Thread
from allod.sdk.context import Context
from allod.sdk.errors import NotFound, ServiceMissing
from allod.sdk.services import Assistant, Assistants

NOBODY = Assistant("", 0, "")
"""Says and sets nothing."""


async def named(context: Context[Any], name: str) -> Assistant:
    """The assistant of this id or name. Raises NotFound, ServiceMissing: it may be one that leaves no trace, so nobody
    else may go on in its place unasked.
    """
    return await context.service(Assistants).get(name)


async def assistant_of(context: Context[Any], name: str) -> Assistant:
    """Who answers in a thread that has begun. Where its assistant was deleted, the default one goes on."""
    try:
        service = context.service(Assistants)
    except ServiceMissing:
        return NOBODY
    try:
        return await service.get(name or None)
    except NotFound:
        return await service.get() if name else NOBODY


def instructions_of(assistant: Assistant, thread: Thread) -> str:
    """The system text of a thread."""
    return "\n\n".join(filter(None, (assistant.instructions, thread.instructions)))
