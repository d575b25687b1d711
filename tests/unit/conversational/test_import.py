"""The way out and back: nothing is lost, and what is wrong in a file is named without a word of what is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.conversational.export_json import END, as_json, as_line, beginning
from allod.extensions.conversational.exported import ExportedThread
from allod.extensions.conversational.import_json import read_threads
from allod.sdk.errors import BadRequest
from tests.unit.conversational.threads_made import WHOLE, answer, exported_threads, thread_of


def written(*threads: ExportedThread) -> bytes:
    return b"".join(as_json(threads, exported_at=1.5))


def refused(data: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as raised:
        read_threads(data)
    assert "SECRET" not in raised.value.message
    assert "SECRET" not in (raised.value.param or "")
    return raised.value


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file of one good thread and then one that is changed."""
    file = json.loads(written(thread_of(title="good"), WHOLE))
    change(file["threads"][1])
    return json.dumps(file).encode()


@given(st.lists(exported_threads(), max_size=3))
def test_what_was_exported_comes_back(threads: list[ExportedThread]) -> None:
    assert read_threads(written(*threads)) == threads


def test_a_part_of_each_kind_comes_back() -> None:
    assert read_threads(written(WHOLE)) == [WHOLE]


def test_the_file_says_what_it_is() -> None:
    file = json.loads(written(WHOLE))
    assert {name: file[name] for name in ("allod", "schema", "exported_at")} == {
        "allod": "threads",
        "schema": 1,
        "exported_at": 1.5,
    }
    assert file["threads"][0]["attachments"] == {"b1": "iVBO"}
    assert "中" in written(thread_of(title="中")).decode()


def test_it_can_be_written_thread_by_thread() -> None:
    lines = [as_line(thread, is_first=number == 0) for number, thread in enumerate([WHOLE, WHOLE])]
    assert b"".join([beginning(1.5), *lines, END]) == written(WHOLE, WHOLE)
    assert read_threads(beginning(1.5) + END) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Invalid JSON"),
        (b"SECRET", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[]", "should be an object"),
        (b'{"threads": []}', "allod: Field required"),
        (b'{"allod": "SECRET", "schema": 1}', "allod: Input should be 'threads'"),
        (b'{"allod": "threads"}', "schema: Field required"),
        (b'{"allod": "threads", "schema": "SECRET"}', "schema: Input should be a valid integer"),
        (b'{"allod": "threads", "schema": 0}', "schema: "),
    ],
)
def test_other_files_are_told_from_exports(data: bytes, said: str) -> None:
    error = refused(data)
    assert error.detail.startswith("The file is no export of Allod's threads.")
    assert said in error.detail
    assert "allod threads export" in error.fix


def test_a_newer_file_is_told_from_a_wrong_one() -> None:
    error = refused(b'{"allod": "threads", "schema": 2, "threads": {"what": "SECRET"}}')
    assert error.detail == "The file has the schema 2; this version of Allod reads up to 1."
    assert "newer version" in error.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda thread: thread.pop("title"), "Thread 2: title: Field required."),
        (lambda thread: thread.update(SECRET=1), "Thread 2: Extra inputs are not permitted."),
        (lambda thread: thread.update(title=1), "Thread 2: title: Input should be a valid string."),
        (lambda thread: thread.update(created_at="SECRET"), "Thread 2: created_at: Input should be a valid number."),
        (lambda thread: thread.update(created_at=1e300), "Thread 2: created_at: "),
        (lambda thread: thread.update(attachments={"b1": "SECRET!"}), "Thread 2: attachments: it is not base64."),
        (lambda thread: thread.update(attachments={"../SECRET": ""}), "Thread 2: attachments: "),
        (lambda thread: thread.update(title_source="SECRET"), "Thread 2: title_source: Input should be 'none'"),
        (lambda thread: thread.update(active="SECRET"), "Thread 2: `active` names no message of the thread."),
        (lambda thread: thread["messages"][0].update(role="SECRET"), "Thread 2: messages[0].role: "),
        (lambda thread: thread["messages"][1].update(seed=True), "Thread 2: messages[1].seed: "),
        (lambda thread: thread["messages"][1]["parts"][0].update(text=None), "Thread 2: messages[1].parts[0].text: "),
        (
            lambda thread: thread["messages"][1]["parts"][0].update(type="SECRET"),
            "Thread 2: messages[1].parts[0]: there is no such kind of part.",
        ),
        (
            lambda thread: thread["messages"][0]["parts"][1].update(blob="/SECRET"),
            "Thread 2: messages[0].parts[1].blob: ",
        ),
        (
            lambda thread: thread["messages"][1].update(id="q"),
            "Thread 2: messages[1].id: an earlier message has the same.",
        ),
        (
            lambda thread: thread["messages"][2].update(parent="SECRET"),
            "Thread 2: messages[2].parent: there is no such message in the thread.",
        ),
        (
            lambda thread: thread["messages"][0].update(parent="a"),
            "Thread 2: messages[0].parent: the message leads back to itself.",
        ),
        (
            lambda thread: thread["messages"][2].update(parent="x"),
            "Thread 2: messages[2].parent: the message leads back to itself.",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_thread_and_field(
    change: Callable[[dict[str, Any]], object], said: str
) -> None:
    error = refused(changed(change))
    assert error.detail.startswith(said)
    assert (error.param or "").startswith("threads[1]")


def test_half_a_character_is_refused() -> None:
    assert "Invalid JSON" in refused(written(WHOLE).replace(b"I look.", b"\\ud800")).detail


def test_a_mistake_beside_the_threads_is_named_too() -> None:
    error = refused(b'{"allod": "threads", "schema": 1, "exported_at": "SECRET", "threads": []}')
    assert error.detail.startswith("exported_at: Input should be a valid number")


def test_a_thread_of_many_messages_is_read_at_once() -> None:
    """Walking up from each message anew would take 50 million steps."""
    chain = [answer(id=f"m{n}", parent=f"m{n - 1}" if n else None) for n in range(10_000)]
    thread = thread_of(*chain)
    assert read_threads(written(thread)) == [thread]
    assert len(thread.active_path()) == 10_000
