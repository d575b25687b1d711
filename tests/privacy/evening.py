"""A server in folders of its own, on which one thread is kept and another is in memory only, each with its mark."""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from allod.testing.server import RunningServer, running_server
from tests.http_client import get, owner, post, request, workers
from tests.privacy.canary import files_with, new_mark

CONVERSATIONS = "/api/conversational"
LONG = {"max_tokens": 400, "ignore_eos": True}
FEW = {"max_tokens": 4}


def ask(server: RunningServer, method: str, path: str, body: Any = None, **headers: str) -> Any:
    reply = request(server, method, f"{CONVERSATIONS}{path}", body, headers={**owner(server), **headers})
    assert reply.status < 300, (method, path, reply.status, reply.body)
    return reply.json if reply.body else None


def answered(server: RunningServer, thread: str, input: Any, **parameters: Any) -> Any:
    """Ask, and give the whole answer."""
    begun = ask(server, "POST", f"/threads/{thread}/runs", {"input": input, "parameters": parameters})
    get(server, f"{CONVERSATIONS}/runs/{begun['run']}/events")  # until it has ended
    return ask(server, "GET", f"/runs/{begun['run']}")["message"]


def used(server: RunningServer, mark: str, *, memory_only: bool) -> str:
    """A thread with the mark wherever one can put it; the model says it too. Gives its id."""
    body = {"memory_only": memory_only, "title": f"On {mark}", "parameters": {"stop": [f"{mark}!"]}}
    thread: str = ask(server, "POST", "/threads", body)["id"]
    file = ask(
        server,
        "POST",
        f"/threads/{thread}/attachments",
        b"x" * (3 << 20) + mark.encode(),  # larger than what is held in memory while it comes in
        **{"Content-Type": "text/plain", "Content-Disposition": f'attachment; filename="{mark}.txt"'},
    )
    said = answered(server, thread, [{"type": "text", "text": f"What is {mark}?"}, file], **FEW)
    echoed = answered(server, thread, "Say it again.", grammar=f'root ::= "{mark}"')
    assert echoed["parts"][0]["text"] == mark, "the model itself says it"
    ask(
        server, "PATCH", f"/threads/{thread}", {"title": f"More on {mark}", "summary": f"It is about {mark}."}
    )
    ask(server, "PUT", f"/threads/{thread}/draft", {"text": f"and {mark}"})
    parts = [{"type": "text", "text": f"What was {mark}?"}]
    ask(server, "POST", f"/threads/{thread}/messages/{said['parent']}/edit", {"parts": parts})
    ask(server, "POST", f"/threads/{thread}/messages/{said['id']}/show")
    wait_in_line(server, thread, mark)
    post(server, f"{CONVERSATIONS}/threads/{thread}/runs", {"input": mark, "parameters": {"top_k": mark}})
    post(server, f"{CONVERSATIONS}/threads/{thread}/runs", {"inputs": mark})
    return thread


def wait_in_line(server: RunningServer, thread: str, mark: str) -> None:
    """Let messages wait while another is answered; change one, and stop the answer."""
    begun = ask(server, "POST", f"/threads/{thread}/runs", {"input": "Write.", "parameters": LONG})
    body = {"input": f"then {mark}", "parameters": {"stop": [mark]}}
    for _ in range(2):
        queued = ask(server, "POST", f"/threads/{thread}/runs", body)["queued"]
    ask(server, "PATCH", f"/threads/{thread}/queue/{queued['id']}", {"input": f"at last {mark}"})
    ask(server, "POST", f"/runs/{begun['run']}/stop", {})


@dataclass
class Evening:
    """A server whose folders are all its own, with a chat that is kept and one that is not."""

    server: RunningServer
    folders: list[Path]
    began_at: float
    events: bytearray = field(default_factory=bytearray)
    kept: str = field(default_factory=new_mark)
    secret: str = field(default_factory=new_mark)
    kept_thread: str = ""
    secret_thread: str = ""
    secret_worker: psutil.Process | None = None

    def files_with(self, mark: str) -> list[str]:
        """In all folders of its own, and in what was written since in those that it shares with others."""
        shared = [Path(tempfile.gettempdir()), Path("/dev/shm"), Path.home() / ".cache"]
        return files_with(mark, *self.folders) + files_with(mark, *shared, since=self.began_at)

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.server.process.pid), *self.server.descendants()]

    def worker(self, purpose: str) -> psutil.Process:
        (pid,) = [row["pid"] for row in workers(self.server) if row["pid"] and row["purpose"] == purpose]
        return psutil.Process(pid)


@contextmanager
def evening(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Evening]:
    own = {name: folder / name.lower() for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for place in own.values():
        place.mkdir()
    own_environment = {name: str(place) for name, place in own.items()}
    folders = [folder, Path(os.environ["XDG_CONFIG_HOME"])]
    began_at = time.time()
    with running_server(folder / "home", environment={**own_environment, **(environment or {})}) as server:
        yield Evening(server, folders, began_at)


@contextmanager
def listening(evening: Evening) -> Iterator[None]:
    """Inside, all events of the server are noted."""
    connection = http.client.HTTPConnection("127.0.0.1", evening.server.port, timeout=300)
    connection.request("GET", "/api/events", headers=owner(evening.server))
    answer = connection.getresponse()
    answer.readline()  # where it stands

    def read() -> None:
        with suppress(OSError, http.client.HTTPException):  # it is cut off
            while line := answer.readline():
                evening.events.extend(line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        reader.join(10)
        connection.close()
