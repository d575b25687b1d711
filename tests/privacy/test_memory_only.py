"""A chat in memory only leaves nothing: in no file, log, list or table, and in no process but the server after its end.

Each way of looking is tried on a chat that is kept, with another mark, in the same run.
"""

from __future__ import annotations

import http.client
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from shutil import which
from typing import Any

import psutil
import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import get, owner, post, request, wait_until, workers
from tests.privacy.canary import (
    copies_in,
    files_with,
    key_of,
    new_mark,
    open_files_with,
    pages,
    variants,
)

CONVERSATIONS = "/api/conversational"
LONG = {"max_tokens": 400, "ignore_eos": True}
FEW = {"max_tokens": 4}
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
root = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0,
    reason="a worker hides its memory from its own user; only root can look",
)


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


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evening]:
    """After the talk; both threads are there."""
    with evening(tmp_path_factory.mktemp("evening")) as running, listening(running):
        running.kept_thread = used(running.server, running.kept, memory_only=False)
        running.secret_thread = used(running.server, running.secret, memory_only=True)
        yield running


@pytest.fixture(scope="module")
def ended(talked: Evening) -> Evening:
    """After the end of the thread in memory only."""
    talked.secret_worker = talked.worker("private")
    ask(talked.server, "DELETE", f"/threads/{talked.secret_thread}")
    return talked


def holds(mark: str, what: bytes | str) -> bool:
    content = what.encode() if isinstance(what, str) else what
    return any(form in content for form in variants(mark))


def test_it_is_there_while_it_lives(talked: Evening) -> None:
    shown = get(talked.server, f"{CONVERSATIONS}/threads/{talked.secret_thread}").body
    assert shown.count(talked.secret.encode()) > 5
    assert holds(talked.secret, get(talked.server, f"{CONVERSATIONS}/threads").body)


def test_no_file_holds_it(talked: Evening, tmp_path: Path) -> None:
    (tmp_path / "control").write_text(talked.kept)
    assert talked.files_with(talked.kept) == ["control"]  # and the store, which is encrypted, is none of them
    assert talked.files_with(talked.secret) == []


def test_no_page_of_the_store_holds_it(talked: Evening) -> None:
    decrypted = pages(talked.server.home, key_of(talked.server.home))
    assert holds(talked.kept, decrypted) and talked.kept_thread.encode() in decrypted
    assert not holds(talked.secret, decrypted)
    assert talked.secret_thread.encode() not in decrypted, "nor is it told to the outbox"


@pytest.mark.parametrize(
    "path", ["/metrics", "/api/jobs", "/api/llamacpp/workers", f"{CONVERSATIONS}/export", "/api/doctor"]
)
def test_no_other_page_shows_it(talked: Evening, path: str) -> None:
    shown = get(talked.server, path)
    assert shown.status == 200
    assert not holds(talked.secret, shown.body)
    assert holds(talked.kept, shown.body) == path.endswith("export")


def test_it_is_not_found(talked: Evening) -> None:
    for mark, are_found in ((talked.kept, True), (talked.secret, False)):
        for order in ("newest", "best"):
            found = ask(talked.server, "POST", "/search", {"query": mark, "order": order})
            assert bool(found["hits"]) == are_found
    assert ask(talked.server, "GET", "/tags") == {"tags": []}


def test_events_and_logs_say_nothing_of_it(talked: Evening) -> None:
    wait_until(lambda: talked.secret_thread.encode() in talked.events)
    assert talked.kept_thread.encode() in talked.events
    for mark in (talked.kept, talked.secret):
        assert not holds(mark, bytes(talked.events))
        assert not holds(mark, talked.server.log_text())
    assert talked.server.log_text(), "something is logged"


@linux
def test_no_open_file_and_no_shared_memory_holds_it(talked: Evening, tmp_path: Path) -> None:
    myself = psutil.Process()
    with (tmp_path / "deleted").open("w+b") as file:
        file.write(b"." * 5000 + talked.kept.encode())
        file.flush()
        (tmp_path / "deleted").unlink()
        assert len(open_files_with(talked.kept, myself)) == 1
        with mmap(file.fileno(), 0):
            assert copies_in(myself, talked.kept, shared_only=True) == 1
    for process in talked.processes():
        assert open_files_with(talked.secret, process) == []
        if os.getuid() == 0:
            assert copies_in(process, talked.secret, shared_only=True) == 0


@root
def test_its_words_are_in_a_worker_of_its_own(talked: Evening) -> None:
    assert copies_in(talked.worker("chat"), talked.kept) > 0
    assert copies_in(talked.worker("chat"), talked.secret) == 0
    assert copies_in(talked.worker("private"), talked.secret) > 0
    assert copies_in(talked.worker("private"), talked.kept) == 0


def test_it_gets_no_title(talked: Evening) -> None:
    """While a thread that is kept gets one by itself."""
    kept, secret = (
        ask(talked.server, "POST", "/threads", {"memory_only": only})["id"] for only in (False, True)
    )
    for thread in (secret, kept):
        answered(talked.server, thread, "Tell me of the sea.", max_tokens=12)
    wait_until(lambda: ask(talked.server, "GET", f"/threads/{kept}")["thread"]["title_source"] == "auto", 30)
    assert ask(talked.server, "GET", f"/threads/{secret}")["thread"]["title"] == ""
    worker = talked.worker("private")
    ask(talked.server, "DELETE", f"/threads/{secret}")
    assert worker.is_running(), "another thread in memory only has words there"


def test_its_worker_ends_with_the_last_thread(ended: Evening) -> None:
    assert ended.secret_worker is not None
    assert not ended.secret_worker.is_running()
    assert [row["purpose"] for row in workers(ended.server) if row["pid"]] == ["chat"]
    assert get(ended.server, f"{CONVERSATIONS}/threads/{ended.secret_thread}").status == 404


@root
def test_no_process_but_the_server_holds_it_afterwards(ended: Evening) -> None:
    children = ended.server.descendants()
    assert children
    assert sum(copies_in(child, ended.kept) for child in children) > 0
    assert {child.pid: copies_in(child, ended.secret) for child in children} == {
        child.pid: 0 for child in children
    }


def test_no_file_and_no_page_holds_it_afterwards(ended: Evening) -> None:
    assert ended.files_with(ended.secret) == []
    decrypted = pages(ended.server.home, key_of(ended.server.home))
    assert holds(ended.kept, decrypted) and not holds(ended.secret, decrypted)


# the server's own memory

SCRUBBED = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
}
"""glibc overwrites what is freed, small pieces too (those of its per-thread cache it would leave as they are)."""


def left_in_server(folder: Path, environment: Mapping[str, str]) -> tuple[int, int]:
    """Copies in the server's own memory before and after the thread's end, once another request came."""
    with evening(folder, environment) as running:
        server, process = running.server, psutil.Process(running.server.process.pid)
        thread = used(server, running.secret, memory_only=True)
        before = copies_in(process, running.secret)
        ask(server, "DELETE", f"/threads/{thread}")
        # a buffer of the event loop still has the end of the longest request, until one comes that is as long
        assert post(server, f"{CONVERSATIONS}/search", b" " * (4 << 20)).status == 400
        return before, copies_in(process, running.secret)


@root
@pytest.mark.skipif("glibc" not in "".join(platform.libc_ver()), reason="needs glibc")
def test_freed_memory_that_is_overwritten_holds_nothing_in_the_server_either(tmp_path: Path) -> None:
    before, after = left_in_server(tmp_path, SCRUBBED)
    assert before > 0
    assert after == 0


# what is written, by the kernel's own account

TRACE = "strace -f -qq -y -s 65535 -e trace=write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg -o".split()
_CALL = re.compile(r"(?:\d+ +)?\w+\(\d+<([^>]*)>")


def written_to(trace: Path, mark: str) -> set[str]:
    """To what the mark was written: paths, "socket", "pipe"."""
    found = set()
    for line in trace.read_text(errors="replace").splitlines():
        if any(form.decode("latin-1") in line for form in variants(mark) if b"\0" not in form):
            call = _CALL.match(line)
            assert call is not None, line[:60]
            found.add(call[1].partition(":")[0])
    return found


@contextmanager
def traced(server: RunningServer, trace: Path) -> Iterator[None]:
    """Inside, all that the server and those that it starts write is noted."""
    tracer = subprocess.Popen([*TRACE, str(trace), "-p", str(server.process.pid)], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: trace.exists() and _is_traced(server.process.pid))
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=60)


def _is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


@root
@pytest.mark.skipif(which("strace") is None, reason="needs strace")
def test_it_is_written_to_sockets_only(tmp_path: Path) -> None:
    """To who asked, and to the worker. Also shows what is unlinked at once, or written to a pipe."""
    control = new_mark()
    writes = f"import os; f = open('gone', 'w'); os.unlink('gone'); f.write('{control}'); f.close(); print('{control}')"
    command = [*TRACE, "control.trace", sys.executable, "-c", writes]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    shown = written_to(tmp_path / "control.trace", control)
    assert any("gone" in place for place in shown) and "pipe" in shown

    with evening(tmp_path) as running:
        with traced(running.server, tmp_path / "trace"):
            thread = used(running.server, running.secret, memory_only=True)
            ask(running.server, "DELETE", f"/threads/{thread}")
        assert written_to(tmp_path / "trace", running.secret) == {"socket"}
