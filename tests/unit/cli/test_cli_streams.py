"""Server-sent events as the command line reads them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast

import pytest

from allod.cli.client import Client, SentEvent, _frames
from allod.cli.events import line
from allod.cli.failures import Exit, Failure


def frames(text: bytes) -> list[tuple[str, str, bytes]]:
    return list(_frames(cast(Any, io.BytesIO(text))))


def test_an_event_has_id_name_and_data_on_one_or_more_lines() -> None:
    sent = b'id: a.1.2\r\nevent: Gap\r\ndata: {"a":\r\ndata: 1}\r\n\r\n: comment\n\ndata:x\n\n'
    assert frames(sent) == [("a.1.2", "Gap", b'{"a":\n1}'), ("a.1.2", "", b"x")]


def test_an_id_alone_is_told_and_a_comment_is_not() -> None:
    assert frames(b"id: a.0.0\n\n:\n\n:\n\n") == [("a.0.0", "", b"")]


def test_an_event_cut_off_is_none() -> None:
    assert frames(b"id: a.1.1\nevent: X\ndata: {}") == []


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[Client, list[Any]]]:
    """A server that answers every GET so, and the headers that it was asked with."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{server.server_port}"), asked
        finally:
            server.shutdown()
            thread.join()


def test_a_stream_is_followed_to_its_end_from_an_event_on() -> None:
    body = b'id: b.1.0\n\nid: b.2.0\nevent: Happened\ndata: {"error": {"message": "is data here"}}\n\n'
    with answering(200, body) as (client, asked):
        assert list(client.follow("/api/events", "a.7.0")) == [
            SentEvent("b.1.0", "", {}),
            SentEvent("b.2.0", "Happened", {"error": {"message": "is data here"}}),
        ]
        assert asked[0]["Last-Event-ID"] == "a.7.0"
        list(client.follow("/api/events"))
        assert "Last-Event-ID" not in asked[1]


def test_what_is_no_event_is_said() -> None:
    with answering(200, b"data: [1]\n\n") as (client, _), pytest.raises(Failure, match="not an event"):
        list(client.follow("/api/events"))


def test_a_refused_stream_has_its_exit_code() -> None:
    body = json.dumps({"detail": "The store is locked.", "fix": "Unlock it."}).encode()
    with answering(423, body) as (client, _), pytest.raises(Failure) as caught:
        list(client.follow("/api/events"))
    assert (caught.value.exit_code, caught.value.status, caught.value.fix) == (
        Exit.NOT_ALLOWED,
        423,
        "Unlock it.",
    )


def test_an_event_is_one_line_that_steers_no_terminal() -> None:
    at = 1_700_000_000.0
    data = {"source": "notes", "at": at, "job": "a\x1b[31m\nb", "done": 1.5, "names": ["ü"]}
    told = line(SentEvent("a.1.1", "JobProgressed", data))
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    assert told == f'{clock} notes JobProgressed job="a\\u001b[31m\\nb" done=1.5 names=["ü"]'
    assert "\n" not in line(SentEvent("", "No\x1bName", {}))


def test_a_server_that_was_started_anew_is_asked_with_its_new_key() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers["Authorization"].removeprefix("Bearer ")
            asked.append(key)
            body = b'{"let": "in"}' if key == "new" else b"{}"
            self.send_response(200 if key == "new" else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            client = Client(url, "old", new_key=lambda: "new")
            assert client.request("GET", "/a") == client.request("GET", "/b") == {"let": "in"}
            for stubborn in (
                Client(url, "old", new_key=lambda: "old"),
                Client(url, "old"),
                Client(url, "x", new_key=str),
            ):
                with pytest.raises(Failure) as caught:
                    stubborn.request("GET", "/a")
                assert caught.value.exit_code == Exit.NOT_ALLOWED
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["old", "new", "new", "old", "old", "x"]
