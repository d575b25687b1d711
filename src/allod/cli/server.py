"""Which server a command speaks to: the one named, the one that runs, or one started for the command's own time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from allod.cli.client import Client
from allod.cli.failures import Exit, Failure
from allod.cli.sharing import alone, held, one_at_a_time
from allod.cli.words import say

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 15
_ANNOUNCED = re.compile(r'^\{"pid": .*\}$', re.MULTILINE)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@contextlib.contextmanager
def connect(
    url: str | None, *, start: bool = True, preload: bool = False, own: bool = False
) -> Iterator[Client]:
    """A client of `url`, else of the running server, else (`start`) of one that ends with this context.

    `preload`: a server that is started loads the default model at once. `own`: only the server of this data folder
    will do, for what a program that merely listens where it usually is must not be told. Raises Failure when there is
    none.
    """
    if url:
        yield _named(url)
        return
    # what is started ends after the hold
    with contextlib.ExitStack() as started, contextlib.ExitStack() as hold:
        hold.enter_context(held())
        with one_at_a_time():
            client = find(own=own)
            if client is None and start:
                client = started.enter_context(_started(preload))
        if client is None:
            raise Failure(
                say("No server is running."),
                fix=say("`allod serve` starts one; --url or ALLOD_URL names another."),
                exit_code=Exit.UNREACHABLE,
            )
        yield client


def find(*, own: bool = False) -> Client | None:
    """The running server: the one of this data folder, else (unless `own`) whichever Allod listens as usual."""
    if (client := _running_here()) or own:
        return client
    client = Client(f"http://127.0.0.1:{usual_port()}", _key())
    if not _is_allod(client):
        return None
    return _running_here() or client  # it may be this folder's, and have said so only after the first look


def _running_here() -> Client | None:
    """The server of this data folder."""
    facts = server_facts()
    client = _own(facts) if facts is not None else None
    return client if client is not None and _is_allod(client) else None


def usual_port() -> int:
    """Where a server is looked for that is not on this data folder."""
    port = os.environ.get("ALLOD_PORT", "")
    return int(port) if port.isdigit() and port != "0" else 1337


def server_facts() -> dict[str, Any] | None:
    """What the run file says of the server on this data folder, None unless its process lives."""
    import psutil

    from allod.kernel.paths import Paths, data_folder

    try:
        facts = json.loads(Paths(data_folder()).server_file.read_text())
        return facts if facts["urls"] and psutil.pid_exists(facts["pid"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _named(url: str) -> Client:
    client = Client(url, _key())
    if not client.is_encrypted and client.host not in _LOOPBACK:
        print(say("Note: what you write travels to {url} unencrypted.", url=client.url), file=sys.stderr)
    return client


def _own(facts: dict[str, Any]) -> Client:
    """A client of this user's own server, whose run file lets in who may read it.

    Its key comes first: ALLOD_API_KEY may be meant for another server.
    """
    return Client(_address(facts), _key_in(facts) or _key(), is_own=True, new_key=_own_key)


def _own_key() -> str:
    return _key_in(server_facts() or {})


def _key_in(facts: dict[str, Any]) -> str:
    return str(facts.get("key") or "")


def _key() -> str:
    return os.environ.get("ALLOD_API_KEY", "").strip()


def _address(facts: dict[str, Any]) -> str:
    url = str(facts["urls"][0])
    for everywhere, loopback in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        url = url.replace(everywhere, loopback)
    return url if urlsplit(url).scheme else f"http://{url}"


def _is_allod(client: Client) -> bool:
    try:
        health = client.request("GET", "/health", timeout_s=5)
    except Failure as failure:
        return failure.exit_code is Exit.NOT_ALLOWED
    return isinstance(health, dict) and "status" in health and "version" in health


@contextlib.contextmanager
def _started(preload: bool) -> Iterator[Client]:
    """A server that ends with this context, or, where other commands use it then, with the last of them."""
    import tempfile
    from pathlib import Path

    handle, name = tempfile.mkstemp(prefix="allod-", suffix=".log")
    os.close(handle)
    log = Path(name)
    if not preload:
        os.environ["ALLOD_SERVER__PRELOAD"] = "false"  # what this process starts inherits it
    # Nobody else is to reach it, whatever the settings say: so it starts without an API key, too.
    process = _spawn(["--host", "127.0.0.1", "--port", "0", "--quiet", "--json"], log)
    try:
        with _said_to_start():
            facts = _wait_for(process, log)
        client = _own(facts)
        client.is_temporary = True
        with _said_where_to_unlock():
            yield client
    finally:
        _end(process)
        log.unlink(missing_ok=True)


@contextlib.contextmanager
def _said_where_to_unlock() -> Iterator[None]:
    """A server of a command's own time cannot be unlocked by another command."""
    try:
        yield
    except Failure as failure:
        if failure.status != HTTPStatus.LOCKED:
            raise
        raise Failure(
            say("The store is locked, and no server is running in which it could be unlocked."),
            fix=say("Run `allod serve`, and beside it `allod vault unlock`."),
            exit_code=failure.exit_code,
        ) from failure


@contextlib.contextmanager
def _said_to_start() -> Iterator[None]:
    """Say that a server starts, while it does, to a person who waits."""
    if not sys.stderr.isatty():
        yield
        return
    print(say("starting a server …"), end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _spawn(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    from allod.kernel.processes import start_server

    return start_server(arguments, log)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        said = log.read_text(errors="replace")
        if announced := _ANNOUNCED.search(said):
            facts = server_facts()  # unless another command's server has taken the file over meanwhile
            return facts if facts and facts["pid"] == process.pid else dict(json.loads(announced[0]))
        if process.poll() is not None:
            tail = "\n".join(said.splitlines()[-15:])
            raise Failure(
                say("A server could not be started. It said:") + f"\n{tail}",
                fix=say("`allod serve` shows the same with all details."),
                exit_code=Exit.UNREACHABLE,
            )
        time.sleep(0.02)
    raise Failure(
        say("A server was started, but is not ready after {seconds} s.", seconds=_START_TIMEOUT_S),
        exit_code=Exit.UNREACHABLE,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server that no other command uses; else it ends by itself once none does."""
    import subprocess

    with alone() as is_alone:
        if process.stdin is not None:
            process.stdin.close()
        if not is_alone:
            return
        for act in (process.terminate, process.kill):
            act()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT_S)
                return
