"""What is measured: servers with the real model and with a scripted worker, the bare worker, nginx where there is."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from allod.extensions.llamacpp.command import worker_environment
from allod.testing.scripted import install
from allod.testing.server import RunningServer, free_port, running_server
from bench.client import CHAT

CHUNKS = 400
PACE_S = 0.005
_REAL = "[llamacpp]\nslots = 16\ncontext_tokens = 2048\npool_tokens = 16384\n"
_SCRIPTED = "[llamacpp]\nslots = 32\ncontext_tokens = 1024\npool_tokens = 16384\n"
_ANSWERS: Mapping[str, Any] = {
    "paced": [{"repeat": CHUNKS, "steps": ["word ", {"wait_s": PACE_S}]}],
    "*": ["Hello."],
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A server and the socket of its own worker, which can be asked past it."""

    server: RunningServer
    socket: Path
    worker_pid: int

    @property
    def places(self) -> list[dict[str, Any]]:
        """Both ways to the same worker."""
        return [
            {"name": "bare", "unix": str(self.socket)},
            {"name": "allod", "port": self.server.port},
        ]


@contextmanager
def real(folder: Path) -> Iterator[Pair]:
    """The embedded model, with room for 16 requests at once."""
    with running_server(folder / "real", settings=_REAL) as server:
        yield _pair(server)


@contextmanager
def scripted(folder: Path) -> Iterator[Pair]:
    """A worker that costs next to nothing, with room for 32 requests at once."""
    program = install(folder / "program", {"answers": _ANSWERS})
    with running_server(folder / "scripted", settings=f'{_SCRIPTED}binary = "{program}"\n') as server:
        yield _pair(server)


def _pair(server: RunningServer) -> Pair:
    first_token_s(server.port)  # waits until the model is loaded
    (path,) = server.home.glob("run/*/*/*.sock")
    (worker,) = server.descendants()
    return Pair(server, path, worker.pid)


@contextmanager
def bare_worker(command: Sequence[str], folder: Path) -> Iterator[Path]:
    """The built-in engine's process as a server starts it, but by hand and without walls. Gives its socket."""
    path = folder / "bare.sock"
    *head, text = command
    parameters = json.dumps(json.loads(text) | {"hostnames": [str(path)]})
    process = subprocess.Popen(
        [*head, parameters],
        env=os.environ | worker_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield path
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        path.unlink(missing_ok=True)


def worker_command(server: RunningServer) -> list[str]:
    """The command line of the server's worker, without its walls. Waits until it runs."""
    while True:
        for child in server.descendants():
            if (line := child.cmdline())[-2:-1] and line[-2].endswith("worker.py"):
                return [line[0], "-I", *line[-2:]]
        time.sleep(0.01)


@contextmanager
def nginx(folder: Path, upstream: Path) -> Iterator[tuple[int, int] | None]:
    """Run nginx before the same worker, where it is installed. Gives its port and its pid, or None."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    (folder / "nginx").mkdir()
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/nginx/{name};" for name in paths)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx/pid; error_log stderr error;"
        f"{'user root;' if os.geteuid() == 0 else ''} events {{}} http {{ access_log off; {temporary}"
        f"upstream worker {{ server unix:{upstream}; keepalive 64; }} keepalive_requests 1000000;"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://worker; proxy_buffering off;"
        'proxy_http_version 1.1; proxy_set_header Connection ""; } } }'
    )
    process = subprocess.Popen(
        [program, "-e", "stderr", "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL
    )
    try:
        first_token_s(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def load(
    pair: Pair, bodies: Mapping[str, Any], *, beside: tuple[int, int] | None = None, **plan: Any
) -> dict[str, list[dict[str, Any]]]:
    """Run the load generator on the pair, and on nginx `beside` it (port and pid)."""
    places, watch = pair.places, {"server": pair.server.process.pid, "worker": pair.worker_pid}
    if beside is not None:
        places.append({"name": "nginx", "port": beside[0]})
        watch["nginx"] = beside[1]
    plan = {"places": places, "bodies": bodies, "watch": watch, **plan}
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(plan).encode(),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    told: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return told


def first_token_s(place: Path | int, timeout_s: float = 60) -> float:
    """Seconds from now to the first token of a short answer, asking until somebody answers."""
    began = time.perf_counter()
    body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 1, "stream": True}
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data
    while time.perf_counter() - began < timeout_s:
        try:
            with _connected(place) as connection:
                connection.sendall(request)
                seen = b""
                while b'"delta":{"content":"' not in seen and (data := connection.recv(65536)):
                    seen += data
                if data:
                    return time.perf_counter() - began
        except OSError:
            pass  # nobody listens yet
        time.sleep(0.005)
    raise RuntimeError(f"{place} gave no token within {timeout_s:g} s")


def _connected(place: Path | int) -> socket.socket:
    if isinstance(place, int):
        return socket.create_connection(("127.0.0.1", place), timeout=60)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    try:
        connection.connect(str(place))
    except OSError:
        connection.close()
        raise
    return connection


def rss_bytes(server: RunningServer) -> int:
    """Resident memory of the server process alone."""
    return int(psutil.Process(server.process.pid).memory_info().rss)
