"""Threads: list, open, create, change, put away, throw away."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.bodies import Context, Name, Parameters, Tag, Title
from allod.extensions.conversational.desk import PAGE, Opened
from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.records import Thread, new_id
from allod.extensions.conversational.shown import page_as_json, queued_as_json, thread_as_json
from allod.extensions.conversational.store import lists
from allod.sdk.errors import BadRequest

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms


_BEFORE = re.compile(r"([0-9.e+]{1,30}):([0-9]{1,18})")


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Title = Field(default="", description="Empty: found by the model after the first answer.")
    project: str | None = Field(default=None, description="The id of a project.")
    tags: list[Tag] = Field(default=[], max_length=50)
    assistant: Name = Field(default="", description="Its id or name; empty: the default one.")
    instructions: Words = Field(
        default="", max_length=100_000, description="For this thread only, behind those of the assistant."
    )
    model: Name = Field(default="", description="Empty: the assistant's, or the default.")
    parameters: Parameters = Field(default={}, description="Fields of each request, such as temperature.")
    context: Context = Field(default=Context())


class NewThread(_Fields):
    """The body of POST /threads."""

    memory_only: bool = Field(default=False, description="Leaves no trace. Cannot be changed later.")


class ThreadChange(_Fields):
    """The body of PATCH /threads/{thread}: only what is named is changed."""

    is_favourite: bool = False
    is_archived: bool = False
    summary: Words = Field(default="", description="What stands for the turns that are left out.")


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/threads")
    desk = rooms.desk

    @router.get("")
    async def list_threads(
        place: lists.Place = "open",
        project: str | None = None,
        tag: str | None = None,
        favourite: bool | None = None,
        assistant: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
        before: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    ) -> dict[str, Any]:
        """Threads, the last changed first. Those in memory only come first, beyond `limit`, on the first page.

        `opening` is what a thread without a title begins with.
        """
        wanted = lists.Wanted(place, project, tag, favourite, assistant)
        found, following = await rooms.context.store.read(
            lambda connection: lists.page(connection, wanted, limit, _place(before))
        )
        in_memory = rooms.shelf.memory.rows.threads() if before is None and wanted == lists.Wanted() else []
        untitled = [each.id for each in found if not each.title]
        begin = await rooms.context.store.read(partial(lists.openings, ids=untitled))
        begin |= {each.id: rooms.shelf.memory.rows.opening(each.id) for each in in_memory}
        shown = [
            {**thread_as_json(each), "opening": begin.get(each.id, ""), "run": _run_of(rooms, each)}
            for each in (*in_memory, *found)
        ]
        return {"threads": shown, "next": following and f"{following[0]!r}:{following[1]}"}

    @router.post("", status_code=201)
    async def create_thread(body: NewThread) -> dict[str, Any]:
        """Begin a thread."""
        now = time.time()
        made = Thread(new_id("thread"), now, now, is_memory_only=body.memory_only, **_fields(body))
        return thread_as_json(await desk.create(made))

    @router.get("/{thread}", response_class=JSONResponse)
    async def open_thread(thread: str, limit: Annotated[int, Query(ge=1, le=1000)] = PAGE) -> dict[str, Any]:
        """A thread: its last messages, the outline of its tree, what waits to be sent, and the run that answers now."""
        return _opened(rooms, await desk.open(thread, limit))

    @router.patch("/{thread}")
    async def change_thread(thread: str, body: ThreadChange) -> dict[str, Any]:
        """Change what is said of a thread."""
        fields = _fields(body)
        if "is_archived" in fields:
            fields["archived_at"] = time.time() if fields.pop("is_archived") else None
        changed = await desk.change(thread, **fields)
        if fields.keys() & {"title", "tags", "summary", "instructions"}:
            rooms.eraser.wanted.set()  # what stood there before
        return thread_as_json(changed)

    return router


def _fields(body: _Fields) -> dict[str, Any]:
    """What the body names, as a thread has it."""
    fields = body.model_dump(exclude_unset=True, exclude={"memory_only"})
    if "context" in fields:
        fields["context"] = body.context.policy()
    if "tags" in fields:
        fields["tags"] = tuple(sorted(set(body.tags)))
    if body.title:
        fields["title_source"] = "manual"
    elif "title" in fields:
        fields["title_source"] = "none"
    return fields


def _place(before: str | None) -> tuple[float, int] | None:
    if before is None:
        return None
    found = _BEFORE.fullmatch(before)
    if found is None:
        raise BadRequest("`before` is not the `next` of a page.", fix="Begin without it.", param="before")
    return float(found[1]), int(found[2])


def _run_of(rooms: Rooms, thread: Thread) -> dict[str, str] | None:
    live = rooms.runs.of_thread(thread.id)
    return None if live is None else {"id": live.order.run, "state": live.state, "message": live.message.id}


def _opened(rooms: Rooms, opened: Opened) -> dict[str, Any]:
    return {
        "thread": thread_as_json(opened.thread),
        **page_as_json(opened.page),
        "outline": opened.outline,
        "queue": [queued_as_json(each) for each in opened.queue],
        "run": _run_of(rooms, opened.thread),
    }
