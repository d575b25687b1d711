"""The narrow door to what is kept: the same for threads in the store and for those in memory only.

Everything that is done to a conversation (tree.py, runs.py) is written once, against these few words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from allod.extensions.conversational.records import Attachment, Message, Outline, Queued, RunRecord, Thread
from allod.sdk.events import Event

T = TypeVar("T")


class Rows(Protocol):
    """The rows of threads, inside one transaction."""

    def thread(self, id: str) -> Thread:
        """A thread. Raises NotFound."""
        ...

    def add_thread(self, thread: Thread) -> None:
        """Keep a new thread."""
        ...

    def put_thread(self, thread: Thread) -> None:
        """Keep a thread in place of what was kept of it."""
        ...

    def drop_thread(self, id: str) -> None:
        """Drop a thread and all that belongs to it, files too."""
        ...

    def message(self, id: str) -> Message:
        """A message. Raises NotFound."""
        ...

    def add_message(self, message: Message) -> None:
        """Keep a new message."""
        ...

    def put_message(self, message: Message) -> None:
        """Keep a message in place of what was kept of it. Its place in the tree may not change."""
        ...

    def drop_messages(self, ids: Sequence[str]) -> None:
        """Drop messages, and files that no other message of their thread names."""
        ...

    def children(self, thread: str, parents: Sequence[str | None]) -> list[Outline]:
        """All children of these messages (None: the first messages), oldest first."""
        ...

    def path(self, message: str, limit: int | None = None) -> list[Message]:
        """The messages that lead to `message`, itself last; only the last `limit` of them."""
        ...

    def leads_to(self, message: str, end: str) -> bool:
        """Whether `message` lies on the way to `end`, or is it."""
        ...

    def outline(self, thread: str) -> list[Outline]:
        """All messages of a tree, oldest first."""
        ...

    def pinned(self, thread: str) -> list[Message]:
        """The pinned messages of a tree, oldest first."""
        ...

    def queue(self, thread: str) -> list[Queued]:
        """What waits to be sent, the next first."""
        ...

    def put_queued(self, queued: Queued) -> None:
        """Keep one that waits, new or changed."""
        ...

    def drop_queued(self, id: str) -> None:
        """Drop one that waits."""
        ...

    def attachment(self, thread: str, blob: str) -> Attachment:
        """A file of this thread. Raises NotFound."""
        ...

    def attachments(self, thread: str) -> list[Attachment]:
        """All files of a thread, oldest first."""
        ...

    def add_attachment(self, attachment: Attachment) -> None:
        """Keep what is said of a file."""
        ...

    def drop_attachments(self, thread: str, blobs: Collection[str]) -> None:
        """Drop those of these files that nothing in the thread names, and once that is kept, their bytes."""
        ...

    def run(self, id: str) -> RunRecord:
        """A run. Raises NotFound."""
        ...

    def put_run(self, run: RunRecord) -> None:
        """Keep a run, new or changed."""
        ...

    def tell(self, event: Event) -> None:
        """Tell of what was done, once it is kept."""
        ...


class Archive(Protocol):
    """Where threads are kept: the store, or memory."""

    async def read(self, work: Callable[[Rows], T]) -> T:
        """What `work` read, all of it from the same moment."""
        ...

    async def write(self, work: Callable[[Rows], T]) -> T:
        """Run `work` in a transaction; once this returns, what it did is kept."""
        ...

    async def put_bytes(self, data: bytes) -> tuple[str, bytes]:
        """Keep the bytes of a file whose row is still to come. Gives its blob and its key."""
        ...

    async def bytes_of(self, attachment: Attachment) -> bytes:
        """The bytes of a file. Raises NotFound, StoreDamaged."""
        ...

    async def drop_bytes(self, blobs: Sequence[str]) -> None:
        """Drop bytes for which no row came."""
        ...
