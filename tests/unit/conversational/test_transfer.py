"""What leaves the store and comes back is the same, but for ids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from allod.extensions.conversational.export_json import as_json
from allod.extensions.conversational.exported import ExportedThread
from allod.extensions.conversational.import_json import read_threads
from allod.extensions.conversational.records import Attachment
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.transfer import exported, imported
from allod.kernel.storage import Database
from allod.sdk.errors import BadRequest
from tests.unit.conversational.places import memory_rows, opened, rows_of
from tests.unit.conversational.threads_made import exported_threads


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = opened(tmp_path_factory.mktemp("transfer"))
    yield database
    database.dispose()


def through(rows: Rows, thread: ExportedThread) -> ExportedThread:
    """Into the rows, out of them, through a file, and once more."""
    projects = {thread.project: "project_1"} if thread.project is not None else {}
    files = {
        part.blob: Attachment(part.blob, "", part.name, part.media_type, 0, 1.0)
        for message in thread.messages
        for part in message.parts
        if part.type in ("image", "file")
    }
    kept = imported(rows, thread, projects, files)
    out = exported(rows, kept.id, {id: name for name, id in projects.items()}, thread.attachments)
    (read,) = read_threads(b"".join(as_json([out], 1.0)))
    assert read == out
    return out


def plain(thread: ExportedThread) -> dict[str, object]:
    """A thread with its ids replaced by the places of their messages, in the order in which they are kept."""
    places: dict[str | None, str | None] = {None: None}
    waiting = list(thread.messages)
    ordered = []
    while waiting:
        each = next(message for message in waiting if message.parent in places)
        places[each.id] = str(len(places))
        ordered.append(each)
        waiting.remove(each)
    shown = thread.model_dump()
    shown["active"] = places[thread.active]
    shown["summary_upto"] = places.get(thread.summary_upto)
    shown["tags"] = tuple(sorted(set(thread.tags)))
    shown["context"] = None
    shown["messages"] = [
        {
            **message.model_dump(),
            "id": places[message.id],
            "parent": places[message.parent],
            "chosen": places[message.chosen],
        }
        for message in ordered
    ]
    return shown


@given(exported_threads())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_is_lost(database: Database, thread: ExportedThread) -> None:
    thread = thread.model_copy(update={"context": {"strategy": "summarize", "budget_tokens": 500}})
    for rows in (memory_rows(),):
        assert plain(through(rows, thread)) == plain(thread)
    with rows_of(database) as kept:
        assert plain(through(kept, thread)) == plain(thread)


def test_a_context_that_cannot_be_is_refused_without_a_word_of_it() -> None:
    thread = ExportedThread(
        title="", created_at=1, changed_at=1, active=None, messages=(), context={"strategy": "SECRET"}
    )
    with pytest.raises(BadRequest) as refused:
        imported(memory_rows(), thread, {}, {})
    assert "SECRET" not in refused.value.message
