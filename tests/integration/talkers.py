"""Windows that talk to a server which may be killed at any moment, and remember what it acknowledged, and when."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from allod.testing.server import RunningServer
from tests.http_client import owner, request, wait_until

CONVERSATIONS = "/api/conversational"
GONE = (OSError, http.client.HTTPException)
"""What a window sees of a server that is killed."""
LONG = {"max_tokens": 2000, "ignore_eos": True}
SHORT = {"max_tokens": 1}


@dataclass
class Heard:
    """An answer while it was streamed: its pieces, each with the moment at which it came."""

    thread: str
    id: str
    run: str
    is_memory_only: bool
    pieces: list[tuple[float, str]] = field(default_factory=list)
    ended: dict[str, Any] | None = None

    @property
    def is_writing(self) -> bool:
        """Whether it is in mid-stream; an answer of one piece is as good as ended."""
        return len(self.pieces) > 1 and self.ended is None

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    def missing_since(self, kept: str) -> float | None:
        """When the first of it came that is not in `kept`; None if all of it is there."""
        length = 0
        for at, piece in self.pieces:
            length += len(piece)
            if length > len(kept):
                return at
        return None


@dataclass
class Acknowledged:
    """All that was said to be kept, by ids; of drafts and titles the number of the last one that was."""

    texts: dict[str, str] = field(default_factory=dict)
    queued: dict[str, dict[str, str]] = field(default_factory=dict)
    drafts: dict[str, tuple[int, int]] = field(default_factory=dict)
    answers: list[Heard] = field(default_factory=list)
    memory_only: set[str] = field(default_factory=set)
    wrong: list[object] = field(default_factory=list)
    """Answers that no window should have got."""


def follow(server: RunningServer, run: str, after: int = 0) -> Iterator[tuple[str, Any]]:
    """What a run says, frame by frame as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = owner(server) | ({"Last-Event-ID": str(after)} if after else {})
    try:
        connection.request("GET", f"{CONVERSATIONS}/runs/{run}/events", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        event = ""
        while line := answer.readline():
            if line.startswith(b"event: "):
                event = line[7:-1].decode()
            elif line.startswith(b"data: "):
                yield event, json.loads(line[6:])
    finally:
        connection.close()


class Windows:
    """Some windows on one server, each in a thread of its own, until the server is gone or `close`."""

    def __init__(self, server: RunningServer, kept: Acknowledged, name: str) -> None:
        self._server = server
        self._kept = kept
        self._name = name
        self._headers = owner(server)
        self._is_closing = threading.Event()
        self.heard: list[Heard] = []
        """The answers of these windows."""
        works: list[Callable[[], None]] = [self._asks, self._asks, self._asks_in_memory, self._edits]
        self._threads = [threading.Thread(target=self._until_gone, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def wait_for_words(self) -> None:
        """Wait until an answer that is kept is being written."""
        wait_until(lambda: any(each.is_writing for each in self.heard if not each.is_memory_only))

    def close(self) -> None:
        """Let each end its work. What still answers is stopped, if there is a server."""
        self._is_closing.set()
        for each in self.heard:
            if each.ended is None:
                try:
                    request(self._server, "POST", f"{CONVERSATIONS}/runs/{each.run}/stop", {})
                except GONE:
                    break
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _until_gone(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GONE:
            pass
        except Exception as error:
            self._kept.wrong.append(error)

    def _does(self, method: str, path: str, body: Any = None, wanted: int = 201) -> Any:
        reply = request(self._server, method, f"{CONVERSATIONS}{path}", body, headers=self._headers)
        assert reply.status == wanted, (method, path, reply.status, reply.body)
        return reply.json if reply.body else None

    # what they do

    def _asks(self) -> None:
        thread = self._does("POST", "/threads", {})["id"]
        waiting = self._kept.queued.setdefault(thread, {})
        for number in itertools.count():
            if self._is_closing.is_set():
                return
            text = f"Tell me a long tale of {self._name}.{number}."
            run, heard = self._begins(thread, {"input": text, "parameters": LONG}, is_memory_only=False)
            self._kept.texts[run["question"]["id"]] = text
            for more in ("and then", "and at last"):
                later = self._does("POST", f"/threads/{thread}/runs", _question(more), 202)
                waiting[later["queued"]["id"]] = more
            self._listens(heard)
            if heard.ended is not None and heard.ended["status"] == "error":
                return  # so that it stays at the end of its branch

    def _asks_in_memory(self) -> None:
        thread = self._does("POST", "/threads", {"memory_only": True})["id"]
        self._kept.memory_only.add(thread)
        while not self._is_closing.is_set():
            body = {"input": "Tell me a secret.", "parameters": LONG}
            _, heard = self._begins(thread, body, is_memory_only=True)
            self._listens(heard)
            if heard.ended is not None and heard.ended["status"] == "error":
                return

    def _edits(self) -> None:
        thread = self._does("POST", "/threads", {})["id"]
        run, heard = self._begins(thread, _question("first"), is_memory_only=False)
        question = run["question"]["id"]
        self._kept.texts[question] = "first"
        self._listens(heard)
        for number in itertools.count(1):
            if self._is_closing.is_set():
                return
            text = f"{self._name} edited {number}"
            parts = {"parts": [{"type": "text", "text": text}]}
            edited = self._does("POST", f"/threads/{thread}/messages/{question}/edit", parts)
            self._kept.texts[edited["id"]] = text
            before, _ = self._kept.drafts.get(thread, (0, 0))
            self._kept.drafts[thread] = (before, number)
            self._does("PUT", f"/threads/{thread}/draft", {"text": str(number)}, 204)
            self._kept.drafts[thread] = (number, number)
            self._is_closing.wait(0.05)

    def _begins(self, thread: str, body: Mapping[str, Any], *, is_memory_only: bool) -> tuple[Any, Heard]:
        run = self._does("POST", f"/threads/{thread}/runs", body, 202)
        heard = Heard(thread, run["answer"]["id"], run["run"], is_memory_only)
        self.heard.append(heard)
        self._kept.answers.append(heard)
        return run, heard

    def _listens(self, heard: Heard) -> None:
        for event, data in follow(self._server, heard.run):
            if event == "text":
                heard.pieces.append((time.monotonic(), data["text"]))
            elif event == "ended":
                heard.ended = data["message"]


def _question(text: str) -> dict[str, Any]:
    return {"input": text, "parameters": SHORT}


@contextmanager
def talking(server: RunningServer, kept: Acknowledged, name: str) -> Iterator[Windows]:
    """Windows that talk until the end of the context."""
    windows = Windows(server, kept, name)
    try:
        yield windows
    finally:
        windows.close()
