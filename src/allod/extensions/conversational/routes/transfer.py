"""Export and import."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from allod.extensions.conversational.assistants import assistant_of
from allod.extensions.conversational.attachments import contents
from allod.extensions.conversational.export_html import as_html
from allod.extensions.conversational.export_json import END, as_json, as_line, beginning
from allod.extensions.conversational.export_markdown import as_markdown
from allod.extensions.conversational.exported import ExportedThread
from allod.extensions.conversational.import_json import read_threads
from allod.extensions.conversational.records import Project, new_id
from allod.extensions.conversational.store import lists
from allod.extensions.conversational.transfer import arriving, exported, imported
from allod.sdk.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allod.extensions.conversational.extension import Rooms

Format = Literal["md", "json", "html"]
_TYPES = {
    "md": "text/markdown; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
}
_NO_STORE = {"cache-control": "no-store"}


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter()
    store = rooms.context.store

    async def all_of_them() -> AsyncGenerator[bytes, None]:
        yield beginning(time.time())
        is_first = True
        for wanted in (lists.Wanted("open"), lists.Wanted("archive")):
            for id in await store.read(partial(lists.ids, wanted=wanted)):
                try:
                    thread = await _whole(rooms, id)
                except NotFound:
                    continue  # deleted since the list was made
                yield await asyncio.to_thread(as_line, thread, is_first=is_first)
                is_first = False
        yield END

    @router.get("/threads/{thread}/export", response_class=Response)
    async def export_thread(
        thread: str, format: Annotated[Format, Query(description="json is lossless.")] = "json"
    ) -> Response:
        """One thread as a file: all of it as JSON, or its active branch to be read, as Markdown or HTML."""
        found = await _whole(rooms, thread, with_files=format != "md")
        if format == "json":
            body: bytes | str = await asyncio.to_thread(lambda: b"".join(as_json([found], time.time())))
        else:
            body = await asyncio.to_thread(as_html if format == "html" else as_markdown, found)
        name = {"content-disposition": f'attachment; filename="{thread}.{format}"'}
        return Response(body, media_type=_TYPES[format], headers={**_NO_STORE, **name})

    @router.get("/export", response_class=StreamingResponse)
    async def export_all() -> StreamingResponse:
        """All threads but those in the trash and in memory only, as one JSON file."""
        name = {"content-disposition": 'attachment; filename="threads.json"'}
        return StreamingResponse(all_of_them(), media_type=_TYPES["json"], headers={**_NO_STORE, **name})

    @router.post("/import", status_code=201)
    async def import_threads(request: Request) -> dict[str, Any]:
        """Keep the threads of an exported JSON file, beside those that are here. All of them, or none."""
        data = await request.body()
        given = await asyncio.to_thread(read_threads, data)

        def projects(connection: Connection) -> dict[str, str]:
            known = {each.name: each.id for each in lists.all_projects(connection)}
            for name in sorted({each.project for each in given if each.project is not None} - known.keys()):
                made = Project(known.setdefault(name, new_id("project")), name, time.time())
                lists.put_project(connection, made)
            return known

        ids = await store.write(projects) if any(each.project for each in given) else {}
        archive = rooms.shelf.store
        async with AsyncExitStack() as stack:
            files = [await stack.enter_async_context(arriving(archive, each)) for each in given]
            kept = await archive.write(
                lambda rows: [
                    imported(rows, each, ids, its).id for each, its in zip(given, files, strict=True)
                ]
            )
        return {"threads": kept}

    return router


async def _whole(rooms: Rooms, thread: str, *, with_files: bool = True) -> ExportedThread:
    """All of a thread, with names in place of ids that mean nothing elsewhere."""
    names = {each.id: each.name for each in await rooms.context.store.read(lists.all_projects)}
    archive = rooms.shelf.of(thread)
    files = await contents(archive, thread) if with_files else {}
    found = await archive.read(lambda rows: exported(rows, thread, names, files))
    if not found.assistant:
        return found
    assistant = await assistant_of(rooms.context, found.assistant)
    return found.model_copy(update={"assistant": assistant.name})
