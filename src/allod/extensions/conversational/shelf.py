"""Where each thread is kept: in the store, or in memory only. What one place has, the other never sees."""

from __future__ import annotations

from allod.extensions.conversational.memory import MemoryArchive
from allod.extensions.conversational.records import Message, RunRecord
from allod.extensions.conversational.rows import Archive, Rows
from allod.extensions.conversational.store.kept import StoreArchive
from allod.sdk.blobs import Blobs
from allod.sdk.events import Events
from allod.sdk.storage import Store


class Shelf:
    """Both places."""

    def __init__(self, store: Store, events: Events, blobs: Blobs) -> None:
        self.store = StoreArchive(store, events, blobs)
        self.memory = MemoryArchive(events.publish)

    def of(self, thread: str) -> Archive:
        """Where a thread is kept; for one that is nowhere, the place that says so."""
        return self.memory if self.memory.rows.has(thread) else self.store

    async def find_run(self, run: str) -> tuple[RunRecord, Message]:
        """A run and its message, wherever they are kept. Raises NotFound."""

        def work(rows: Rows) -> tuple[RunRecord, Message]:
            record = rows.run(run)
            return record, rows.message(record.message)

        return await (self.memory if self.memory.rows.has_run(run) else self.store).read(work)
