"""What the tests of conversations ask a real server for, in few words."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from allod.testing.server import RunningServer
from tests.http_client import owner, request
from tests.integration.talkers import CONVERSATIONS, follow

SETTINGS = "[conversational]\ntitles = false\n"


def ask(server: RunningServer, method: str, path: str, body: Any = None) -> Any:
    reply = request(server, method, f"{CONVERSATIONS}{path}", body)
    assert reply.status < 300, (method, path, reply.status, reply.body)
    return reply.json if reply.body else None


def refused(server: RunningServer, status: int, method: str, path: str, body: Any = None) -> Any:
    """The problem that a request gets (RFC 9457)."""
    reply = request(server, method, f"{CONVERSATIONS}{path}", body)
    assert reply.status == status, (method, path, reply.status, reply.body)
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == status and problem["detail"] and problem["fix"]
    return problem


def thread(server: RunningServer, **fields: Any) -> str:
    return str(ask(server, "POST", "/threads", fields)["id"])


def answered(server: RunningServer, id: str, **body: Any) -> Any:
    """Begin a run with at most a few tokens, and wait for its message."""
    body = {"parameters": {"max_tokens": 4}, **body}
    begun = ask(server, "POST", f"/threads/{id}/runs", body)
    ended = [data for event, data in follow(server, begun["run"]) if event in ("ended", "snapshot")]
    return ended[0]["message"]


def shown(server: RunningServer, id: str) -> list[str]:
    """The ids of the active branch."""
    return [each["id"] for each in ask(server, "GET", f"/threads/{id}")["messages"]]


def text_in(message: Any) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def ids(server: RunningServer, query: str) -> list[str]:
    return [each["id"] for each in ask(server, "GET", f"/threads?{query}")["threads"]]


def hits(server: RunningServer, query: str, **filters: Any) -> list[Any]:
    return list(ask(server, "POST", "/search", {"query": query, **filters})["hits"])


@contextmanager
def listening(server: RunningServer) -> Iterator[list[Any]]:
    """Inside, the events of the server as (name, data)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("GET", "/api/events", headers=owner(server))
    answer = connection.getresponse()
    answer.readline()
    found: list[Any] = []

    def read() -> None:
        name = ""
        with suppress(OSError, http.client.HTTPException):  # it is cut off
            while line := answer.readline():
                if line.startswith(b"event: "):
                    name = line[7:-1].decode()
                elif line.startswith(b"data: "):
                    found.append((name, json.loads(line[6:])))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        reader.join(10)
        connection.close()
