"""What a person does with threads: create, open, change, put away, throw away, fork, keep one that was in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from allod.extensions.conversational.assistants import assistant_of, named
from allod.extensions.conversational.attachments import moved, own_parts, placed, take_in
from allod.extensions.conversational.events import QueueChanged, ThreadChanged
from allod.extensions.conversational.memory import no_queued
from allod.extensions.conversational.parts import Part, blobs_of
from allod.extensions.conversational.private import Private
from allod.extensions.conversational.records import Attachment, Message, Outline, Queued, Thread, new_id
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.runs import Runs
from allod.extensions.conversational.shelf import Shelf
from allod.extensions.conversational.store import lists
from allod.extensions.conversational.tree import change, cut, fork, grow, message_of, show, siblings_of
from allod.sdk.context import Context
from allod.sdk.errors import BadRequest, Conflict, NotFound
from allod.sdk.services import Assistant

PAGE = 50
Act = Literal[
    "archive", "unarchive", "favourite", "unfavourite", "trash", "restore", "delete", "move", "tag", "untag"
]


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the active branch, oldest first; for each message what one may choose in its place."""

    messages: list[Message]
    siblings: dict[str, list[str]]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """All that is needed to show a thread."""

    thread: Thread
    page: Page
    outline: list[Outline]
    queue: list[Queued]


class Desk:
    """The threads of one user."""

    def __init__(self, context: Context[Any], shelf: Shelf, runs: Runs, private: Private) -> None:
        self._context = context
        self._shelf = shelf
        self._runs = runs
        self._private = private

    # threads

    async def create(self, thread: Thread) -> Thread:
        """Keep a new thread. Raises NotFound for a project that is not there."""
        if thread.project is not None:
            project = await self._context.store.read(lambda c: lists.project(c, str(thread.project)))
            thread = replace(thread, assistant=thread.assistant or project.assistant)
        if (await self._assistant(thread.assistant)).memory_only:
            thread = replace(thread, is_memory_only=True)
        if thread.is_memory_only and (thread.project or thread.tags):
            raise _homeless()

        def work(rows: Rows) -> None:
            rows.add_thread(thread)
            rows.tell(ThreadChanged(thread.id, "created"))

        await (self._shelf.memory if thread.is_memory_only else self._shelf.store).write(work)
        return thread

    async def _assistant(self, name: str) -> Assistant:
        return await (named(self._context, name) if name else assistant_of(self._context, ""))

    async def get(self, id: str) -> Thread:
        """A thread. Raises NotFound."""
        return await self._shelf.of(id).read(lambda rows: rows.thread(id))

    async def open(self, id: str, limit: int = PAGE) -> Opened:
        """A thread with the end of its active branch and the outline of its tree. Raises NotFound."""

        def work(rows: Rows) -> Opened:
            thread = rows.thread(id)
            return Opened(thread, page_of(rows, thread, None, limit), rows.outline(id), rows.queue(id))

        return await self._shelf.of(id).read(work)

    async def page(self, id: str, before: str | None, limit: int = PAGE) -> Page:
        """Messages of the active branch, the last ones or those before a message. Raises NotFound."""
        return await self._shelf.of(id).read(lambda rows: page_of(rows, rows.thread(id), before, limit))

    async def change(self, id: str, **fields: Any) -> Thread:
        """Change what is said of a thread. Raises NotFound, and BadRequest for what a thread in memory cannot have."""
        if fields.get("project") is not None:
            await self._context.store.read(lambda c: lists.project(c, fields["project"]))
        assistant = await self._assistant(fields["assistant"]) if fields.get("assistant") else None

        def work(rows: Rows) -> Thread:
            before = rows.thread(id)
            if assistant is not None and assistant.memory_only and not before.is_memory_only:
                raise Conflict(
                    f"{assistant.name!r} leaves no trace, and the thread {id!r} is kept.",
                    fix="Begin a thread in memory only.",
                )
            after = replace(before, **fields)
            if before.is_memory_only and (after.project or after.tags):
                raise _homeless()
            if after != before:
                rows.put_thread(after)
                rows.tell(ThreadChanged(id, "changed"))
            return after

        return await self._shelf.of(id).write(work)

    async def trash(self, id: str) -> None:
        """Put a thread into the trash; one in memory only is gone at once. Raises NotFound."""
        if self._shelf.memory.rows.has(id):
            await self.delete(id)
            return
        async with self._runs.alone(id):
            await self._mark(id, deleted_at=time.time())

    async def restore(self, id: str) -> None:
        """Take a thread out of the trash. Raises NotFound."""
        await self._mark(id, deleted_at=None)

    async def _mark(self, id: str, **fields: Any) -> None:
        def work(rows: Rows) -> None:
            rows.put_thread(replace(rows.thread(id), **fields))
            rows.tell(ThreadChanged(id, "changed" if fields.get("deleted_at") is None else "deleted"))

        await self._shelf.of(id).write(work)

    async def delete(self, id: str) -> None:
        """Delete a thread for good. Raises NotFound. `Eraser` lets what it was be gone from the disk too."""
        async with self._runs.alone(id):
            await self._drop(id)

    async def _drop(self, id: str) -> None:
        archive = self._shelf.of(id)

        def work(rows: Rows) -> None:
            rows.drop_thread(id)
            rows.tell(ThreadChanged(id, "deleted"))

        await archive.write(work)
        self._runs.forget(id)
        if archive is self._shelf.memory:
            await self._private.gone()

    async def act(self, ids: Sequence[str], act: Act, value: str | None = None) -> list[str]:
        """Do one thing to many threads. Gives the ids of those that are not there; the others are done."""
        missing = []
        for id in ids:
            try:
                await self._act(id, act, value)
            except NotFound:
                missing.append(id)
        return missing

    async def _act(self, id: str, act: Act, value: str | None) -> None:
        match act:
            case "archive" | "unarchive":
                await self.change(id, archived_at=time.time() if act == "archive" else None)
            case "favourite" | "unfavourite":
                await self.change(id, is_favourite=act == "favourite")
            case "move":
                await self.change(id, project=value)
            case "tag" | "untag":
                tags = set((await self.get(id)).tags)
                changed = tags | {str(value)} if act == "tag" else tags - {value}
                await self.change(id, tags=tuple(sorted(map(str, changed))))
            case "trash":
                await self.trash(id)
            case "restore":
                await self.restore(id)
            case "delete":
                await self.delete(id)

    # messages

    async def message(self, thread: str, id: str) -> Message:
        """A message. Raises NotFound."""
        return await self._shelf.of(thread).read(lambda rows: message_of(rows, thread, id))

    async def edit(self, thread: str, id: str, parts: Sequence[Part]) -> Message:
        """Put another version of a message beside it, and show that. Raises NotFound, Conflict while it is written."""

        def work(rows: Rows) -> Message:
            before = _settled(message_of(rows, thread, id))
            facts = {
                name: getattr(before, name)
                for name in ("model", "assistant", "assistant_version", "is_pinned")
            }
            return grow(rows, rows.thread(thread), before.parent, before.role, parts, **facts)[1]

        return await self._shelf.of(thread).write(work)

    async def pin(self, thread: str, id: str, pinned: bool) -> Message:
        """Keep a message in the prompt whatever is left out. Raises NotFound."""
        return await self._shelf.of(thread).write(
            lambda rows: change(rows, message_of(rows, thread, id), is_pinned=pinned)
        )

    async def show(self, thread: str, id: str) -> Thread:
        """Let the active branch lead through a message. Raises NotFound."""
        return await self._shelf.of(thread).write(lambda rows: show(rows, rows.thread(thread), id))

    async def cut(self, thread: str, id: str) -> list[str]:
        """Delete a message and all that hangs on it. Raises NotFound, and Conflict while something is written there."""
        if (live := self._runs.of_thread(thread)) is not None:
            raise Conflict(
                f"The thread {thread!r} is being answered.", fix=f"Stop the run {live.order.run} first."
            )
        return await self._shelf.of(thread).write(lambda rows: cut(rows, rows.thread(thread), id)[1])

    async def fork(self, thread: str, id: str) -> Thread:
        """A new thread with what leads to a message. Raises NotFound."""
        archive = self._shelf.of(thread)

        def named(rows: Rows) -> list[Attachment]:
            blobs = {blob for message in rows.path(id) for blob in blobs_of(message.parts)}
            return [each for each in rows.attachments(thread) if each.blob in blobs]

        files = await archive.read(named)
        async with placed(archive, files, archive.bytes_of) as copies:
            return await archive.write(lambda rows: fork(rows, rows.thread(thread), id, copies))

    # what waits

    async def queue(self, thread: str) -> list[Queued]:
        """What waits to be sent. Raises NotFound."""
        return await self._shelf.of(thread).read(lambda rows: rows.queue(thread))

    async def change_queued(self, thread: str, id: str, parts: Sequence[Part] | None) -> None:
        """Change what waits; None takes it out. Raises NotFound, also if it has been sent."""

        def work(rows: Rows) -> None:
            rows.thread(thread)
            found = [each for each in rows.queue(thread) if each.id == id]
            if not found:
                raise no_queued(id)
            if parts is None:
                rows.drop_queued(id)
            else:
                rows.put_queued(replace(found[0], parts=own_parts(rows, thread, parts)))
            rows.drop_attachments(thread, blobs_of(found[0].parts))
            rows.tell(QueueChanged(thread))

        await self._shelf.of(thread).write(work)

    # from memory into the store

    async def keep(self, id: str) -> Thread:
        """Keep a thread that was in memory only, with its whole tree, in the store. Raises NotFound, Conflict."""
        rows = self._shelf.memory.rows
        if not rows.has(id):
            raise Conflict(f"The thread {id!r} is kept already.", fix="Nothing has to be done.")
        async with self._runs.alone(id):
            thread = replace(rows.thread(id), id=new_id("thread"), is_memory_only=False)
            messages = [rows.message(each.id) for each in rows.outline(id)]
            waiting = rows.queue(id)
            files, memory, store = rows.attachments(id), self._shelf.memory, self._shelf.store
            async with placed(store, files, memory.bytes_of) as copies:

                def work(kept: Rows) -> None:
                    kept.add_thread(thread)
                    take_in(kept, thread.id, copies.values())
                    for message in messages:
                        parts = moved(message.parts, copies)
                        kept.add_message(replace(message, thread=thread.id, parts=parts))
                    for queued in waiting:
                        kept.put_queued(replace(queued, thread=thread.id, parts=moved(queued.parts, copies)))
                    kept.tell(ThreadChanged(thread.id, "created"))

                await store.write(work)
            await self._drop(id)
        return thread


def page_of(rows: Rows, thread: Thread, before: str | None, limit: int) -> Page:
    """Messages of the active branch, the last ones or those before a message. Raises NotFound."""
    end = thread.active if before is None else message_of(rows, thread.id, before).parent
    if end is None:
        return Page([], {}, has_more=False)
    messages = rows.path(end, limit)
    return Page(messages, siblings_of(rows, thread.id, messages), has_more=messages[0].parent is not None)


def _homeless() -> BadRequest:
    return BadRequest(
        "A thread in memory only has no project and no tags.",
        fix="Leave them out, or keep the thread first.",
        param="project",
    )


def _settled(message: Message) -> Message:
    if message.status == "writing":
        raise Conflict(f"{message.id!r} is still being written.", fix="Stop its run first.")
    return message
