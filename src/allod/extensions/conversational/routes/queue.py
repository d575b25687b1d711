"""What waits to be sent while a run answers; and how a question is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.parts import Part, Text, Words, read_parts
from allod.extensions.conversational.shown import queued_as_json
from allod.sdk.errors import BadRequest

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms


class QueuedChange(BaseModel):
    """The body of PATCH /threads/{thread}/queue/{queued}."""

    model_config = ConfigDict(extra="forbid")

    input: Words | list[dict[str, Any]] = Field(description="Text, or parts.")


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter()
    desk = rooms.desk

    @router.get("/threads/{thread}/queue")
    async def list_queue(thread: str) -> dict[str, Any]:
        """What waits to be sent, the next first."""
        return {"queue": [queued_as_json(each) for each in await desk.queue(thread)]}

    @router.patch("/threads/{thread}/queue/{queued}", status_code=204)
    async def change_queued(thread: str, queued: str, body: QueuedChange) -> None:
        """Change what waits to be sent."""
        await desk.change_queued(thread, queued, parts_of(body.input))
        rooms.eraser.wanted.set()

    @router.delete("/threads/{thread}/queue/{queued}", status_code=204)
    async def drop_queued(thread: str, queued: str) -> None:
        """Do not send it."""
        await desk.change_queued(thread, queued, None)
        rooms.eraser.wanted.set()

    return router


def parts_of(given: str | list[dict[str, Any]] | None) -> tuple[Part, ...]:
    """What was given as `input`: text, or parts. Raises BadRequest where it holds nothing."""
    if given is None:
        return ()
    parts = (Text(text=given),) if isinstance(given, str) else read_parts(given, "input")
    if not any(not isinstance(part, Text) or part.text.strip() for part in parts):
        raise BadRequest("There is nothing in the question.", fix="Write something.", param="input")
    return parts
