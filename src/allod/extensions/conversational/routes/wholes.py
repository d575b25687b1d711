"""What is done with threads as wholes: drafts, forks, the trash, many at once, and keeping what was in memory only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.desk import Act
from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.shown import thread_as_json
from allod.extensions.conversational.store import lists
from allod.sdk.errors import BadRequest

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms


class Draft(BaseModel):
    """The body of PUT /threads/{thread}/draft."""

    model_config = ConfigDict(extra="forbid")

    text: Words = Field(max_length=1_000_000, description="What is typed and not sent yet.")


class Bulk(BaseModel):
    """The body of POST /threads/bulk."""

    model_config = ConfigDict(extra="forbid")

    threads: list[str] = Field(min_length=1, max_length=10_000)
    act: Act
    value: Annotated[Words, Field(max_length=60)] | None = Field(
        default=None, description="The project of move, the tag of tag and untag."
    )


class Place(BaseModel):
    """The body of POST /threads/{thread}/fork."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(description="The last message that the new thread has.")


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/threads")
    desk = rooms.desk

    @router.put("/{thread}/draft", status_code=204)
    async def keep_draft(thread: str, body: Draft) -> None:
        """Keep what is typed. The first key also ends what the server does while it idles."""
        rooms.idle.disturb()
        await desk.change(thread, draft=body.text)
        if not body.text:
            rooms.eraser.wanted.set()  # it was sent, or thrown away

    @router.delete("/{thread}", status_code=204)
    async def delete_thread(
        thread: str, forever: Annotated[bool, Query(description="Not to the trash.")] = False
    ) -> None:
        """Put a thread into the trash, or delete it for good. One in memory only is gone at once."""
        if forever:
            await desk.delete(thread)
            rooms.eraser.wanted.set()
        else:
            await desk.trash(thread)

    @router.post("/{thread}/restore", status_code=204)
    async def restore_thread(thread: str) -> None:
        """Take a thread out of the trash."""
        await desk.restore(thread)

    @router.post("/{thread}/fork", status_code=201)
    async def fork_thread(thread: str, body: Place) -> dict[str, Any]:
        """Begin a new thread with what leads to a message."""
        return thread_as_json(await desk.fork(thread, body.message))

    @router.post("/{thread}/keep", status_code=201)
    async def keep_thread(thread: str) -> dict[str, Any]:
        """Keep a thread that is in memory only: the one way in which it comes into the store."""
        return thread_as_json(await desk.keep(thread))

    @router.post("/bulk")
    async def change_many(body: Bulk) -> dict[str, Any]:
        """Do one thing to many threads. `missing` are those that are not there."""
        await _check_value(rooms, body)
        missing = await desk.act(body.threads, body.act, body.value)
        if body.act == "delete":
            rooms.eraser.wanted.set()
        return {"done": len(body.threads) - len(missing), "missing": missing}

    @router.delete("", status_code=204)
    async def empty_trash() -> None:
        """Delete for good what is in the trash."""
        in_trash = lists.Wanted("trash")
        for thread in await rooms.context.store.read(lambda connection: lists.ids(connection, in_trash)):
            await desk.delete(thread)
        rooms.eraser.wanted.set()

    return router


async def _check_value(rooms: Rooms, body: Bulk) -> None:
    if body.act in ("tag", "untag") and not body.value:
        raise BadRequest("Which tag?", fix="Name it as `value`.", param="value")
    if body.act == "move" and body.value is not None:
        await rooms.context.store.read(partial(lists.project, id=body.value))
