"""The messages of a thread: pages of the active branch, other versions, pins, deletion."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.desk import PAGE
from allod.extensions.conversational.parts import read_parts
from allod.extensions.conversational.shown import message_as_json, page_as_json, thread_as_json

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms


class Parts(BaseModel):
    """The body of POST /threads/{thread}/messages/{message}/edit."""

    model_config = ConfigDict(extra="forbid")

    parts: list[dict[str, Any]] = Field(
        min_length=1, description="Text, images, files; see docs/conversations.md."
    )


class Pin(BaseModel):
    """The body of PATCH /threads/{thread}/messages/{message}."""

    model_config = ConfigDict(extra="forbid")

    is_pinned: bool = Field(description="Whether it stays in the prompt whatever is left out.")


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/threads/{thread}")
    desk = rooms.desk

    @router.get("/messages")
    async def list_messages(
        thread: str,
        before: Annotated[str | None, Query(description="Only those before this message.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
    ) -> dict[str, Any]:
        """The last messages of the active branch, oldest first, each with its `siblings`."""
        return page_as_json(await desk.page(thread, before, limit))

    @router.get("/outline")
    async def outline(thread: str) -> dict[str, Any]:
        """The whole tree without its texts."""
        return {"outline": [asdict(each) for each in (await desk.open(thread, 1)).outline]}

    @router.get("/messages/{message}")
    async def one_message(thread: str, message: str) -> dict[str, Any]:
        """One message."""
        return message_as_json(await desk.message(thread, message))

    @router.post("/messages/{message}/edit", status_code=201)
    async def edit(thread: str, message: str, body: Parts) -> dict[str, Any]:
        """Put another version beside a message, and show it. Begin a run to have a question answered."""
        return message_as_json(await desk.edit(thread, message, read_parts(body.parts)))

    @router.post("/messages/{message}/show")
    async def show(thread: str, message: str) -> dict[str, Any]:
        """Let the active branch lead through a message."""
        return thread_as_json(await desk.show(thread, message))

    @router.patch("/messages/{message}")
    async def pin(thread: str, message: str, body: Pin) -> dict[str, Any]:
        """Pin a message, or take the pin out."""
        return message_as_json(await desk.pin(thread, message, body.is_pinned))

    @router.delete("/messages/{message}")
    async def delete(thread: str, message: str) -> dict[str, Any]:
        """Delete a message and all that hangs on it."""
        gone = await desk.cut(thread, message)
        rooms.eraser.wanted.set()
        return {"deleted": gone}

    return router
