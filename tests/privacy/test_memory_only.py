"""A chat in memory only leaves nothing: in no file, log, list or table, and in no process but the server after its end.

Each way of looking is tried on a chat that is kept, with another mark, in the same run.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from shutil import which

import psutil
import pytest

from allod.testing.server import RunningServer
from tests.http_client import get, post, wait_until, workers
from tests.privacy.canary import copies_in, key_of, new_mark, open_files_with, pages, variants
from tests.privacy.evening import (
    CONVERSATIONS,
    FEW,
    Evening,
    answered,
    ask,
    evening,
    listening,
    used,
    wait_in_line,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
root = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0,
    reason="a worker hides its memory from its own user; only root can look",
)


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


def left_in_server(folder: Path, environment: Mapping[str, str], *, stops: bool) -> tuple[int, int]:
    """Copies in the server's own memory before the end of a thread and after it, once another request has come."""
    with evening(folder, environment) as running:
        server, process = running.server, psutil.Process(running.server.process.pid)
        thread = ask(server, "POST", "/threads", {"memory_only": True})["id"]
        answered(server, thread, f"What is {running.secret}?", **FEW)
        ask(server, "PUT", f"/threads/{thread}/draft", {"text": f"and {running.secret}"})
        if stops:
            wait_in_line(server, thread, running.secret)
        before = copies_in(process, running.secret)
        ask(server, "DELETE", f"/threads/{thread}")
        # a buffer of the event loop has the end of the longest request, until one comes that is as long
        assert post(server, f"{CONVERSATIONS}/search", b" " * (1 << 20)).status == 400
        return before, copies_in(process, running.secret)


@root
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunables of glibc")
@pytest.mark.parametrize(
    ("environment", "stops"),
    [
        pytest.param(SCRUBBED, False, id="scrubbed"),
        pytest.param(SCRUBBED, True, id="scrubbed, after a stop"),
        pytest.param(
            {},
            False,
            id="as it is",
            marks=pytest.mark.xfail(
                strict=False,
                raises=AssertionError,
                reason="freed memory is not overwritten by the allocators; by luck something else may have done it",
            ),
        ),
    ],
)
def test_the_server_itself_holds_nothing_afterwards(
    tmp_path: Path, environment: Mapping[str, str], stops: bool
) -> None:
    before, after = left_in_server(tmp_path, environment, stops=stops)
    if not before:
        raise RuntimeError("The control was not found.")  # which is no expected failure
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
