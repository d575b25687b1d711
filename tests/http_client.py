"""Plain HTTP for the tests: any method, any body, answers as they are; and a look at a worker's own slots."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from allod.testing.server import RunningServer

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def text(self) -> str:
        """The text of the first choice."""
        choice = self.json["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def request(
    server: RunningServer,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 120,
    as_owner: bool = True,
) -> Reply:
    """`as_owner`: where a key is needed and none is given, this user's own from the run file."""
    if as_owner and path.startswith(("/api/", "/metrics")) and not headers:
        headers = owner(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    try:
        connection.request(
            method, path, _encoded(body), {"Content-Type": "application/json", **(headers or {})}
        )
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def owner(server: RunningServer) -> dict[str, str]:
    """What this user's own commands send."""
    key = json.loads((server.home / "run/server.json").read_text())["key"]
    return {"Authorization": f"Bearer {key}"}


def get(
    server: RunningServer, path: str, headers: Mapping[str, str] | None = None, *, as_owner: bool = True
) -> Reply:
    return request(server, "GET", path, headers=headers, as_owner=as_owner)


def post(server: RunningServer, path: str, body: Any, **more: Any) -> Reply:
    return request(server, "POST", path, body, **more)


def chat(server: RunningServer, text: str = "Say hi.", **fields: Any) -> Reply:
    """A plain chat with at most 16 tokens of answer, unless `fields` say otherwise."""
    return post(server, CHAT, {"model": "jan", "messages": user(text), "max_tokens": 16, **fields})


def _encoded(body: Any) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


@contextmanager
def opened(server: RunningServer, path: str, body: Any) -> Iterator[http.client.HTTPConnection]:
    """A POST whose answer has not been waited for. Leaving the context closes the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, _encoded(body), {"Content-Type": "application/json"})
    try:
        yield connection
    finally:
        connection.close()


def frames(server: RunningServer, path: str, body: Any) -> list[dict[str, Any]]:
    """All JSON frames of a streamed answer; asserts that it ended in order."""
    reply = post(server, path, {**body, "stream": True})
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"data: [DONE]\n\n"), reply.body[-300:]
    return frames_in(reply.body)


def frames_in(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]


def streamed_text(frames: list[dict[str, Any]]) -> str:
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for frame in frames
        for choice in frame.get("choices", ())
    )


def workers(server: RunningServer) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = get(server, "/api/llamacpp/workers").json["workers"]
    return rows


def worker_pid(server: RunningServer) -> int:
    """The process of the one running worker."""
    (pid,) = [row["pid"] for row in workers(server) if row["pid"]]
    return int(pid)


def busy_slots(server: RunningServer) -> int:
    """How many slots the one running worker itself says are at work."""
    return sum(slot["is_processing"] for slot in _slots(server))


def writing_slots(server: RunningServer) -> int:
    """How many of them have begun to write: their answers can no longer be given to another worker."""
    at_work = [slot for slot in _slots(server) if slot["is_processing"]]
    return sum(slot["next_token"][0]["n_decoded"] > 2 for slot in at_work)


def _slots(server: RunningServer) -> list[dict[str, Any]]:
    # a worker that was killed may leave its own for a moment
    path = max(server.home.glob("run/*/*/*.sock"), key=lambda path: int(path.parent.name))
    connection = http.client.HTTPConnection("worker", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", "/slots")
        slots: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        return slots
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> float:
    """Seconds until `condition` held. Fails the test after `timeout_s`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.01)
    return time.monotonic() - began
