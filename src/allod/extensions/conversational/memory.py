"""Threads in memory only: plain objects that no database ever sees. They end with the server, or before."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from allod.extensions.conversational.parts import blobs_of, text_of
from allod.extensions.conversational.records import (
    OPENING,
    Attachment,
    Message,
    Outline,
    Queued,
    RunRecord,
    Thread,
)
from allod.sdk.errors import NotFound
from allod.sdk.events import Event

T = TypeVar("T")


class MemoryRows:
    """Implements Rows. What is told is only published: nothing of it reaches the outbox."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self._publish = publish
        self._threads: dict[str, Thread] = {}
        self._messages: dict[str, dict[str, Message]] = {}  # by thread, oldest first
        self._touched: dict[str, float] = {}
        self._homes: dict[str, str] = {}  # message -> thread
        self._queues: dict[str, dict[str, Queued]] = {}
        self._runs: dict[str, RunRecord] = {}
        self._attachments: dict[str, dict[str, Attachment]] = {}
        self.bytes: dict[str, bytes] = {}
        """Of attached files, by their blobs."""

    def threads(self) -> list[Thread]:
        """All of them, the last changed first."""
        return sorted(self._threads.values(), key=lambda thread: -thread.changed_at)

    def opening(self, thread: str) -> str:
        """With what a thread begins."""
        first = next(iter(self._messages[thread].values()), None)
        return "" if first is None else text_of(first.parts)[:OPENING]

    def touched_at(self, thread: str) -> float:
        """When anything of it was changed the last time: a draft and a growing answer count too."""
        return self._touched.get(thread, 0.0)

    def has(self, thread: str) -> bool:
        """Whether this thread is one of them."""
        return thread in self._threads

    def has_run(self, run: str) -> bool:
        """Whether this run is one of theirs."""
        return run in self._runs

    def thread(self, id: str) -> Thread:
        """A thread."""
        if id not in self._threads:
            raise no_thread(id)
        return self._threads[id]

    def add_thread(self, thread: Thread) -> None:
        """Keep a new thread."""
        self._threads[thread.id] = thread
        self._touched[thread.id] = time.time()
        self._messages[thread.id] = {}
        self._queues[thread.id] = {}
        self._attachments[thread.id] = {}

    def put_thread(self, thread: Thread) -> None:
        """Keep a thread in place of what was kept of it."""
        self._threads[thread.id] = thread
        self._touched[thread.id] = time.time()

    def drop_thread(self, id: str) -> None:
        """Drop a thread and all that belongs to it."""
        self.thread(id)
        for message in self._messages.pop(id):
            del self._homes[message]
        for blob in self._attachments.pop(id):
            del self.bytes[blob]
        self._runs = {name: run for name, run in self._runs.items() if run.thread != id}
        self._touched.pop(id, None)
        del self._threads[id], self._queues[id]

    def message(self, id: str) -> Message:
        """A message."""
        if id not in self._homes:
            raise no_message(id)
        return self._messages[self._homes[id]][id]

    def add_message(self, message: Message) -> None:
        """Keep a new message."""
        self._messages[message.thread][message.id] = message
        self._homes[message.id] = message.thread

    def put_message(self, message: Message) -> None:
        """Keep a message in place of what was kept of it."""
        self._messages[message.thread][message.id] = message
        self._touched[message.thread] = time.time()

    def drop_messages(self, ids: Sequence[str]) -> None:
        """Drop messages."""
        named: dict[str, set[str]] = {}
        for id in ids:
            thread = self._homes.pop(id)
            named.setdefault(thread, set()).update(blobs_of(self._messages[thread].pop(id).parts))
        for thread, blobs in named.items():
            self.drop_attachments(thread, blobs)

    def children(self, thread: str, parents: Sequence[str | None]) -> list[Outline]:
        """All children of these messages."""
        wanted = set(parents)
        return [each for each in self.outline(thread) if each.parent in wanted]

    def path(self, message: str, limit: int | None = None) -> list[Message]:
        """The messages that lead to `message`."""
        found = [self.message(message)]
        while (parent := found[-1].parent) is not None and (limit is None or len(found) < limit):
            found.append(self.message(parent))
        return found[::-1]

    def leads_to(self, message: str, end: str) -> bool:
        """Whether `message` lies on the way to `end`, or is it."""
        return any(each.id == message for each in self.path(end))

    def outline(self, thread: str) -> list[Outline]:
        """All messages of a tree."""
        self.thread(thread)
        return [
            Outline(each.id, each.parent, each.role, each.status, each.created_at)
            for each in self._messages[thread].values()
        ]

    def pinned(self, thread: str) -> list[Message]:
        """The pinned messages of a tree."""
        return [message for message in self._messages[thread].values() if message.is_pinned]

    def queue(self, thread: str) -> list[Queued]:
        """What waits to be sent."""
        self.thread(thread)
        return list(self._queues[thread].values())

    def put_queued(self, queued: Queued) -> None:
        """Keep one that waits."""
        self._queues[queued.thread][queued.id] = queued

    def drop_queued(self, id: str) -> None:
        """Drop one that waits."""
        for queue in self._queues.values():
            if queue.pop(id, None) is not None:
                return
        raise no_queued(id)

    def attachment(self, thread: str, blob: str) -> Attachment:
        """A file of this thread."""
        found = self._attachments.get(thread, {}).get(blob)
        if found is None:
            raise no_attachment(blob)
        return found

    def attachments(self, thread: str) -> list[Attachment]:
        """All files of a thread."""
        self.thread(thread)
        return list(self._attachments[thread].values())

    def add_attachment(self, attachment: Attachment) -> None:
        """Keep what is said of a file."""
        self._attachments[attachment.thread][attachment.blob] = attachment

    def drop_attachments(self, thread: str, blobs: Collection[str]) -> None:
        """Drop those of these files that nothing names."""
        said = [message.parts for message in self._messages[thread].values()]
        waiting = [queued.parts for queued in self._queues[thread].values()]
        for blob in {*blobs}.difference(*map(blobs_of, [*said, *waiting])):
            if self._attachments[thread].pop(blob, None) is not None:
                del self.bytes[blob]

    def run(self, id: str) -> RunRecord:
        """A run."""
        if id not in self._runs:
            raise no_run(id)
        return self._runs[id]

    def put_run(self, run: RunRecord) -> None:
        """Keep a run."""
        self._runs[run.id] = run

    def tell(self, event: Event) -> None:
        """Tell of what was done."""
        self._publish(event)


class MemoryArchive:
    """Implements Archive. `work` runs on the event loop, so nothing comes between; it checks before it changes."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self.rows = MemoryRows(publish)

    async def read(self, work: Callable[[MemoryRows], T]) -> T:
        """What `work` read."""
        return work(self.rows)

    async def write(self, work: Callable[[MemoryRows], T]) -> T:
        """Run `work`."""
        return work(self.rows)

    async def put_bytes(self, data: bytes) -> tuple[str, bytes]:
        """Keep the bytes of a file: here, and nowhere else."""
        blob = secrets.token_hex(16)
        self.rows.bytes[blob] = data
        return blob, b""

    async def bytes_of(self, attachment: Attachment) -> bytes:
        """The bytes of a file."""
        if attachment.blob not in self.rows.bytes:
            raise no_attachment(attachment.blob)
        return self.rows.bytes[attachment.blob]

    async def drop_bytes(self, blobs: Sequence[str]) -> None:
        """Drop bytes for which no row came."""
        for blob in blobs:
            self.rows.bytes.pop(blob, None)


def no_thread(id: str) -> NotFound:
    """For a thread that is not there."""
    return NotFound(f"There is no thread {id[:60]!r}.", fix="`allod threads` lists them.")


def no_message(id: str) -> NotFound:
    """For a message that is not there."""
    return NotFound(f"There is no message {id[:60]!r}.", fix="Look at the thread again.")


def no_queued(id: str) -> NotFound:
    """For something that does not wait (any more)."""
    return NotFound(f"Nothing called {id[:60]!r} waits to be sent.", fix="Look at the thread's queue again.")


def no_attachment(blob: str) -> NotFound:
    """For a file that is not there."""
    return NotFound(f"The thread has no file {blob[:40]!r}.", fix="Look at its attachments.")


def no_run(id: str) -> NotFound:
    """For a run that is not known."""
    return NotFound(f"There is no run {id[:60]!r}.", fix="Look at the thread's messages.")
