"""What was deleted of conversations is in no page of the store, decrypted, within moments; nor are attached files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import get
from tests.privacy.canary import key_of, new_mark, pages
from tests.privacy.evening import CONVERSATIONS, ask

QUIET = "[conversational]\ntitles = false\n"
WITHIN_S = 3.0
"""Half a second in which deletions are put together, and what the index takes to be merged, on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("residue") / "home", settings=QUIET) as running:
        for number in range(10):  # so that pages are shared with what stays
            thread = ask(running, "POST", "/threads", {"title": f"stays {number}", "tags": ["stays"]})["id"]
            answered(running, thread, f"What stays is {number}.")
        yield running


def answered(server: RunningServer, thread: str, input: Any) -> Any:
    body = {"input": input, "parameters": {"max_tokens": 2}}
    begun = ask(server, "POST", f"/threads/{thread}/runs", body)
    get(server, f"{CONVERSATIONS}/runs/{begun['run']}/events")
    return begun


@dataclass
class Marked:
    """A thread that has its mark wherever one can put it."""

    server: RunningServer
    mark: str
    thread: str
    question: str

    def hits(self) -> int:
        """How often the mark, in any case of its letters, is in the pages of the store."""
        found = pages(self.server.home, key_of(self.server.home)).lower()
        return found.count(self.mark.lower().encode())


@pytest.fixture
def marked(server: RunningServer) -> Marked:
    mark = new_mark()
    body = {"title": f"On {mark}", "tags": [f"tag {mark}"], "parameters": {"stop": [f"{mark}!"]}}
    thread = ask(server, "POST", "/threads", body)["id"]
    ask(server, "PUT", f"/threads/{thread}/draft", {"text": f"{mark} is typed " * 3})
    headers = {"Content-Type": "text/plain", "Content-Disposition": f'attachment; filename="{mark}.txt"'}
    file = ask(server, "POST", f"/threads/{thread}/attachments", mark.encode() * 1000, **headers)
    begun = answered(server, thread, [{"type": "text", "text": f"What is {mark}? "}, file])
    long = {"input": "Write.", "parameters": {"max_tokens": 500, "ignore_eos": True}}
    run = ask(server, "POST", f"/threads/{thread}/runs", long)
    waiting = {"input": f"and {mark}", "parameters": {"stop": [mark]}}
    for _ in range(2):
        ask(server, "POST", f"/threads/{thread}/runs", waiting)
    ask(server, "POST", f"/runs/{run['run']}/stop", {})
    parts = [{"type": "text", "text": f"{mark} was it. " * 900}]  # of many pages
    question = begun["question"]["id"]
    ask(server, "POST", f"/threads/{thread}/messages/{question}/edit", {"parts": parts})
    made = Marked(server, mark, thread, question)
    assert made.hits() > 12, "the control: it is there, and is found"
    return made


def until_gone(marked: Marked) -> None:
    """Wait until nothing of it is left, and no longer than was promised."""
    until = time.monotonic() + WITHIN_S
    while (left := marked.hits()) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == 0


def forever(marked: Marked) -> None:
    ask(marked.server, "DELETE", f"/threads/{marked.thread}?forever=true")


def by_the_trash(marked: Marked) -> None:
    ask(marked.server, "DELETE", f"/threads/{marked.thread}")
    assert marked.hits() > 12, "in the trash it is all there"
    ask(marked.server, "DELETE", "/threads")


def in_bulk(marked: Marked) -> None:
    done = ask(marked.server, "POST", "/threads/bulk", {"threads": [marked.thread], "act": "delete"})
    assert done == {"done": 1, "missing": []}


def while_it_answers(marked: Marked) -> None:
    body = {"parameters": {"max_tokens": 500, "ignore_eos": True}}  # to the last question
    run = ask(marked.server, "POST", f"/threads/{marked.thread}/runs", body)["run"]
    ask(marked.server, "DELETE", f"/threads/{marked.thread}?forever=true")
    assert get(marked.server, f"{CONVERSATIONS}/runs/{run}").status == 404


@pytest.mark.parametrize("delete", [forever, by_the_trash, in_bulk, while_it_answers])
def test_a_deleted_thread_is_in_no_page(marked: Marked, delete: Callable[[Marked], None]) -> None:
    delete(marked)
    until_gone(marked)
    assert ask(marked.server, "POST", "/search", {"query": marked.mark})["hits"] == []
    stays = ask(marked.server, "POST", "/search", {"query": "what stays is", "limit": 100})["hits"]
    assert len(stays) >= 10, "and nothing else is gone"
    checks = get(marked.server, "/api/doctor").json["checks"]
    assert [check["status"] for check in checks if check["name"] == "store is sound"] == ["ok"]


def test_deleted_messages_are_in_no_page(server: RunningServer) -> None:
    thread = ask(server, "POST", "/threads", {"title": "stays"})["id"]
    first = answered(server, thread, "This stays.")
    made = Marked(server, new_mark(), thread, "")
    begun = answered(server, thread, f"What is {made.mark}?")
    answered(server, thread, f"And {made.mark} again?")
    question = begun["question"]["id"]
    parts = [{"type": "text", "text": f"{made.mark} was it. " * 900}]  # of many pages
    edited = ask(server, "POST", f"/threads/{thread}/messages/{question}/edit", {"parts": parts})["id"]
    assert made.hits() > 900
    gone = [
        *ask(server, "DELETE", f"/threads/{thread}/messages/{question}")["deleted"],
        *ask(server, "DELETE", f"/threads/{thread}/messages/{edited}")["deleted"],
    ]
    assert len(gone) == 5
    until_gone(made)
    page = ask(server, "GET", f"/threads/{thread}")
    assert [each["id"] for each in page["messages"]] == [first["question"]["id"], first["answer"]["id"]]


def test_an_attached_file_is_gone_with_its_message(server: RunningServer) -> None:
    blobs = server.home / "blobs"
    thread = ask(server, "POST", "/threads", {})["id"]
    made = Marked(server, new_mark(), thread, "")
    headers = {"Content-Type": "text/plain", "Content-Disposition": f'attachment; filename="{made.mark}.txt"'}
    file = ask(server, "POST", f"/threads/{thread}/attachments", made.mark.encode(), **headers)
    begun = answered(server, thread, [file, {"type": "text", "text": "What is in it?"}])
    assert named(blobs, file["blob"])
    ask(server, "DELETE", f"/threads/{thread}/messages/{begun['question']['id']}")
    until_gone(made)
    assert not named(blobs, file["blob"])


def named(folder: Path, blob: str) -> list[Path]:
    return [path for path in folder.rglob("*") if blob in str(path)]


def title(marked: Marked) -> None:
    for text in (f"About {marked.mark}", "About nothing"):
        ask(marked.server, "PATCH", f"/threads/{marked.thread}", {"title": text})


def draft(marked: Marked) -> None:
    for text in (f"About {marked.mark}", ""):
        ask(marked.server, "PUT", f"/threads/{marked.thread}/draft", {"text": text})


def tag(marked: Marked) -> None:
    for tags in ([marked.mark], []):
        ask(marked.server, "PATCH", f"/threads/{marked.thread}", {"tags": tags})


def line(marked: Marked) -> None:
    long = {"input": "Write.", "parameters": {"max_tokens": 500, "ignore_eos": True}}
    run = ask(marked.server, "POST", f"/threads/{marked.thread}/runs", long)["run"]
    queued = ask(marked.server, "POST", f"/threads/{marked.thread}/runs", {"input": marked.mark})["queued"]
    ask(marked.server, "DELETE", f"/threads/{marked.thread}/queue/{queued['id']}")
    ask(marked.server, "POST", f"/runs/{run}/stop", {})


def project(marked: Marked) -> None:
    made = ask(marked.server, "POST", "/projects", {"name": marked.mark})["id"]
    ask(marked.server, "DELETE", f"/projects/{made}")


@pytest.mark.parametrize(
    "replace",
    [
        title,
        draft,
        tag,
        line,
        project,
    ],
)
def test_what_was_written_over_or_taken_back_is_in_no_page(
    server: RunningServer, replace: Callable[[Marked], None]
) -> None:
    thread = ask(server, "POST", "/threads", {})["id"]
    made = Marked(server, new_mark(), thread, "")
    replace(made)
    until_gone(made)
