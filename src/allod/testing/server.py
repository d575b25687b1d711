"""A real Allod server in a process of its own, for tests and measurements."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httptools
import psutil

_START_S = 60
_STOP_S = 20


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where it answers, and where its data and its log lie. `started_s`: seconds from its start to its first answer."""

    url: str
    port: int
    home: Path
    log: Path
    process: subprocess.Popen[bytes]
    started_s: float

    def descendants(self) -> list[psutil.Process]:
        """Its child processes, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def log_text(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")


def free_port() -> int:
    """A TCP port that nobody listens on now, on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(
    home: Path,
    *,
    settings: str = "",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
    python: Path | str = sys.executable,
) -> Iterator[RunningServer]:
    """Start `allod serve` on the data folder `home`, with `settings` as its config.toml, and stop it afterwards.

    `python` is the interpreter of another environment, with other extensions.

    Raises RuntimeError, with what the server printed, if it does not answer within a minute, and if it leaves any
    process behind.
    """
    home.mkdir(parents=True, exist_ok=True)
    if settings:
        (home / "config.toml").write_text(settings, "utf-8")
    port = port or free_port()
    log = home.parent / f"{home.name}.log"
    command = [str(python), "-m", "allod", "serve", "--port", str(port), *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ALLOD_")}
    inherited.setdefault("XDG_CONFIG_HOME", str(home.parent / "config"))  # where the store's key file goes
    inherited.pop("DBUS_SESSION_BUS_ADDRESS", None)  # nor is this user's keyring for tests
    with log.open("ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, "ALLOD_HOME": str(home), **(environment or {})},
        )
    try:
        while ask(port, "/health/live") != 200:
            if process.poll() is not None or time.monotonic() - began > _START_S:
                raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.005)
        started_s = time.monotonic() - began
        yield RunningServer(f"http://127.0.0.1:{port}", port, home, log, process, started_s)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"The server did not stop within {_STOP_S} s.") from None
    left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise RuntimeError(f"The server left {left} behind.")


def ask(port: int, path: str) -> int:
    """The status of GET `path` on 127.0.0.1, 0 while nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            parser = httptools.HttpResponseParser(object())
            parser.feed_data(connection.recv(65536))
            return int(parser.get_status_code())
    except (OSError, httptools.HttpParserError):
        return 0
