"""The only maker of child processes. Each gets a socket folder of its own and, on Linux, walls around it (jail.py)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from allod.kernel import custody
from allod.kernel.worker_http import WorkerHttp
from allod.sdk.errors import EngineGone, LoadFailed
from allod.sdk.processes import Address, Walls

HAS_WALLS = sys.platform == "linux"
_JAIL = Path(__file__).with_name("jail.py")
_WALLS_LINE = "allod-walls "
_log = logging.getLogger("allod.processes")

# What any dynamically linked program, and a Python one, must be able to read to start at all.
_PROGRAM_FILES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/proc",
    "/sys",
    "/dev/urandom",
)
# Device nodes of GPUs and what their drivers read; absent ones are skipped.
_GPU_DEVICES = ("/dev/dri", "/dev/kfd", *(f"/dev/nvidia{n}" for n in range(16)))
_GPU_DEVICES += ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps")
_GPU_FILES = (
    "/etc/vulkan",
    "/usr/share/vulkan",
    "/usr/local/cuda",
    "/opt/rocm",
    "/etc/OpenCL",
    "/usr/local/nvidia",
)


class ChildProcesses:
    """Makes children. `sockets` is a 0700 folder; `allow_unwalled` starts a child even if no wall holds."""

    def __init__(self, sockets: Path, *, allow_unwalled: bool = False) -> None:
        self._sockets = sockets
        self._allow_unwalled = allow_unwalled
        self._count = 0
        self._children: set[ChildProcess] = set()

    async def spawn(self, name: str, argv: Callable[[Address], Sequence[str]], walls: Walls) -> ChildProcess:
        """Start a program without network that listens on an address of its own."""
        self._count += 1
        folder = self._sockets / str(self._count)
        folder.mkdir(mode=0o700)
        address = _address(folder)
        command = list(argv(address))
        environment = {"LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder), **walls.environment}
        if HAS_WALLS:
            command = self._walled(command, walls, folder, environment)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,  # held open: where there is no death signal, its end tells of ours
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the server alone, which then ends its children
                limit=1 << 20,
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise LoadFailed(f"The engine's program could not be started: {error.strerror}.") from error
        with custody.acting(""):  # who watches a child is not the extension's own: it must outlive its end
            child = ChildProcess(process, name, address, folder)
        self._children.add(child)
        child.on_end(lambda: self._children.discard(child))
        return child

    def _walled(
        self, command: list[str], walls: Walls, folder: Path, environment: Mapping[str, str]
    ) -> list[str]:
        spec = {
            "parent": os.getpid(),
            "namespaces": ["net", "ipc"],
            "read": [*_PROGRAM_FILES, *_GPU_FILES, *map(str, walls.read)],
            "write": [str(folder), "/dev/null", *_GPU_DEVICES, *map(str, walls.write)],
            "environment": dict(environment),
            "refuse_without_walls": not self._allow_unwalled,
        }
        python = [sys.executable, "-I"]
        if command[:2] == python:  # a program of ours: it can hide its memory, see jail.py
            return [*python, str(_JAIL), json.dumps(spec), "--run", *command[2:]]
        return [*python, "-S", str(_JAIL), json.dumps(spec), "--", *command]

    async def run(self, argv: Sequence[str], *, timeout_s: float = 10) -> str:
        """Run a short program to its end and return what it printed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise LoadFailed(f"{argv[0]} could not be started: {error.strerror}.") from error
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            raise LoadFailed(f"{argv[0]} did not end within {timeout_s:g} s.") from None
        finally:
            if process.returncode is None:  # also where the asker was cancelled
                process.kill()
                await process.wait()
        return output.decode(errors="replace")

    async def probe_walls(self) -> dict[str, Any]:
        """Which walls this system offers, by trying them; empty where it has none to offer."""
        if not HAS_WALLS:
            return {}
        report: dict[str, Any] = json.loads(
            await self.run([sys.executable, "-I", "-S", str(_JAIL), "--probe"])
        )
        return report

    async def close(self) -> None:
        """End all children."""
        await asyncio.gather(*(child.stop() for child in list(self._children)))
        shutil.rmtree(self._sockets, ignore_errors=True)


class ChildProcess:
    """A running child and the client of its socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, name: str, address: Address, folder: Path
    ) -> None:
        self._process = process
        self.name = name
        self._folder = folder
        self._lines: deque[str] = deque(maxlen=80)
        self._at_end: list[Callable[[], None]] = []
        self._stopping = False
        self._was_ready = False
        self.pid = process.pid
        self.http = WorkerHttp(address, name)
        self.walls: Mapping[str, Any] = {}
        self._reader = asyncio.create_task(self._read_output(), name=f"output:{process.pid}")
        self._ended = asyncio.create_task(self._watch(), name=f"wait:{process.pid}")

    def on_end(self, call: Callable[[], None]) -> None:
        """Call back once it has ended."""
        self._at_end.append(call)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    @property
    def rss_bytes(self) -> int:
        """Memory that it takes now, 0 when it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.is_alive else 0
        except psutil.Error:
            return 0

    def output(self) -> Sequence[str]:
        """The last lines that it printed before it was ready."""
        return tuple(self._lines)

    async def ensure_ready(
        self, *, deadline_s: float, health: str = "/health", watch: Callable[[int], None] | None = None
    ) -> None:
        """Wait until GET `health` says 200."""
        async with asyncio.timeout(deadline_s):
            step = 0
            while True:
                if self._ended.done():
                    raise EngineGone(f"{self.name} {self._ended.result()} before it was ready.")
                try:
                    if (await self.http.request("GET", health, timeout_s=5)).status == 200:
                        self._was_ready = True
                        return
                except EngineGone:
                    pass  # not listening yet: asked again below
                if watch is not None and step % 10 == 0:
                    watch(self.rss_bytes)
                step += 1
                await asyncio.sleep(0.01)

    async def wait(self) -> str:
        """Wait for its end and say how it ended, in words."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float = 3) -> None:
        """End it: politely first, by force after `grace_s`."""
        if not self._stopping and self.is_alive:
            self._stopping = True
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """End it by force."""
        if self.is_alive:
            self._process.kill()

    async def _watch(self) -> str:
        code = await self._process.wait()
        await self._reader
        if self._process.stdin is not None:
            self._process.stdin.close()
        self.http.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        for call in self._at_end:
            call()
        return _how_it_ended(code)

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # a line over the limit: its text is of no use here
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text.startswith(_WALLS_LINE):
                self.walls = json.loads(text.removeprefix(_WALLS_LINE))
                self._tell_walls()
            elif (
                not self._was_ready
            ):  # from here on it is sent requests, and what it prints may repeat their words
                self._lines.append(text)

    def _tell_walls(self) -> None:
        refused = [layer for layer, held in self.walls.items() if held is None]
        if refused:
            _log.warning("%s: this system refused walls: %s %s", self.name, refused, self.walls.get("why"))


def _address(folder: Path) -> Address:
    if sys.platform != "win32":
        return Address(str(folder / "s.sock"))  # by this ending llama.cpp knows a socket file
    with socket.socket() as probe:  # not tested: no Windows at hand
        probe.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", probe.getsockname()[1], secrets.token_urlsafe(32))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def start_server(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start an Allod server for a client's own time; it ends when its stdin is closed."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "allod", "serve", "--stop-with-stdin", *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
