"""Threads on their way out of the house and back in: from rows to what is exported, and back, under new ids."""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from allod.extensions.conversational.attachments import described, moved, placed, take_in
from allod.extensions.conversational.bodies import Context
from allod.extensions.conversational.events import ThreadChanged
from allod.extensions.conversational.exported import ExportedMessage, ExportedThread
from allod.extensions.conversational.parts import File, Image
from allod.extensions.conversational.records import Attachment, ContextPolicy, Message, Thread, new_id
from allod.extensions.conversational.rows import Archive, Rows
from allod.sdk.errors import BadRequest


def exported(
    rows: Rows, id: str, projects: Mapping[str, str], attachments: Mapping[str, bytes] | None = None
) -> ExportedThread:
    """All of a thread. `projects` are names by ids. Raises NotFound."""
    thread = rows.thread(id)
    # the outline is in the order of creation, so that an import has it too
    messages = [rows.message(each.id) for each in rows.outline(id)]
    return ExportedThread(
        title=thread.title,
        title_source=thread.title_source,
        created_at=thread.created_at,
        changed_at=thread.changed_at,
        project=None if thread.project is None else projects.get(thread.project),
        tags=thread.tags,
        assistant=thread.assistant,
        instructions=thread.instructions,
        model=thread.model,
        parameters=dict(thread.parameters),
        is_favourite=thread.is_favourite,
        is_archived=thread.archived_at is not None,
        context=asdict(thread.context),
        draft=thread.draft,
        summary=thread.summary,
        summary_upto=thread.summary_upto,
        active=thread.active,
        messages=tuple(_exported(message) for message in messages),
        attachments=dict(attachments or {}),
    )


def _exported(message: Message) -> ExportedMessage:
    names = set(ExportedMessage.model_fields)
    fields = {name: getattr(message, name) for name in names}
    for name in ("parameters", "usage"):
        fields[name] = dict(fields[name])
    fields["timings"] = {
        name: value
        for name, value in message.timings.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    fields["error"] = None if message.error is None else dict(message.error)
    if message.status == "writing":
        fields["status"] = "interrupted"
    return ExportedMessage(**fields)


def imported(
    rows: Rows, given: ExportedThread, projects: Mapping[str, str], files: Mapping[str, Attachment]
) -> Thread:
    """Keep a thread under ids of its own. `projects` are ids by names, `files` what `arriving` has kept.

    Raises BadRequest for what a thread here cannot have.
    """
    ids = {message.id: new_id("msg") for message in given.messages}
    ids_or_none: dict[str | None, str | None] = {None: None}
    ids_or_none.update(ids)
    thread = Thread(
        id=new_id("thread"),
        created_at=given.created_at,
        changed_at=given.changed_at,
        title=given.title,
        title_source=given.title_source,
        project=None if given.project is None else projects[given.project],
        tags=tuple(sorted(set(given.tags))),
        assistant=given.assistant,
        instructions=given.instructions,
        model=given.model,
        parameters=given.parameters,
        context=_policy(given.context),
        is_favourite=given.is_favourite,
        archived_at=given.changed_at if given.is_archived else None,
        draft=given.draft,
        summary=given.summary,
        summary_upto=ids_or_none.get(given.summary_upto),
        active=ids_or_none[given.active],
        messages=len(given.messages),
    )
    rows.add_thread(thread)
    take_in(rows, thread.id, files.values())
    depths: dict[str | None, int] = {None: 0}
    for message in _parents_first(given.messages):
        depths[message.id] = depths[message.parent] + 1
        fields = {name: getattr(message, name) for name in ExportedMessage.model_fields}
        fields |= {
            "id": ids[message.id],
            "parent": ids_or_none[message.parent],
            "chosen": ids_or_none[message.chosen],
            "parts": moved(message.parts, files),
        }
        rows.add_message(Message(thread=thread.id, depth=depths[message.id], **fields))
    rows.tell(ThreadChanged(thread.id, "created"))
    return thread


@asynccontextmanager
async def arriving(archive: Archive, given: ExportedThread) -> AsyncIterator[dict[str, Attachment]]:
    """The files that a thread brings along, kept anew, by the blobs in it; inside, `imported` makes them a thread's."""
    parts = [part for message in given.messages for part in message.parts]
    named = {part.blob: part for part in parts if isinstance(part, Image | File)}
    files = [
        await described(part.name, part.media_type, given.attachments[blob], blob)
        for blob, part in named.items()
        if blob in given.attachments
    ]

    async def bytes_of(file: Attachment) -> bytes:
        return given.attachments[file.blob]

    async with placed(archive, files, bytes_of) as made:
        yield made


def _parents_first(messages: Sequence[ExportedMessage]) -> list[ExportedMessage]:
    """In the order in which they stand, but none before its parent."""
    waiting: dict[str | None, list[int]] = {}
    placed: set[str | None] = {None}
    found: list[ExportedMessage] = []
    for number, message in enumerate(messages):
        if message.parent not in placed:
            waiting.setdefault(message.parent, []).append(number)
            continue
        ready = [number]
        while ready:
            each = messages[heapq.heappop(ready)]
            found.append(each)
            placed.add(each.id)
            for child in waiting.pop(each.id, []):
                heapq.heappush(ready, child)
    return found


def _policy(given: Mapping[str, Any]) -> ContextPolicy:
    try:
        return Context.model_validate(given).policy()
    except ValidationError:
        raise BadRequest(
            "`context` is not what a thread here can have.", fix="Leave it out.", param="context"
        ) from None
