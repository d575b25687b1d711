"""The command line as a process of its own: in a pipe, with what it said, or at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from allod.cli.failures import Exit
from allod.testing.server import RunningServer, free_port

COMMAND = [sys.executable, "-m", "allod"]


def environment(home: Path, port: int, more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALLOD_", "LC_"))}
    return {**inherited, "LANG": "C.UTF-8", "ALLOD_HOME": str(home), "ALLOD_PORT": str(port), **more}


def allod(
    where: RunningServer | Path, *arguments: str, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command beside a server, or on a data folder that no server uses; `more` is environment."""
    home, port = _place(where)
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(home, port, more),
    )


def told(where: RunningServer | Path, *arguments: str, **more: str) -> Any:
    """What a command prints with --json."""
    done = allod(where, *arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(where: RunningServer | Path, *arguments: str, **more: str) -> list[str]:
    """What a command prints, line by line."""
    done = allod(where, *arguments, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def refused(where: RunningServer | Path, code: Exit, *arguments: str, stdin: str = "", **more: str) -> str:
    """What a command says on stderr as it ends with `code`; fails if it prints anything else."""
    done = allod(where, *arguments, stdin=stdin, **more)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def _place(where: RunningServer | Path) -> tuple[Path, int]:
    return (where.home, where.port) if isinstance(where, RunningServer) else (where, free_port())


class Terminal:
    """A person at a terminal of 80 × 24, in which a command runs."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self._seen = ""

    def types(self, text: str) -> None:
        os.write(self._end, text.encode())

    def sees(self, wanted: str, timeout_s: float = 30) -> str:
        """Wait for a text, and return what came up to it; it is not seen again."""
        deadline = time.monotonic() + timeout_s
        while wanted not in (plain := re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", self._seen)):
            assert time.monotonic() < deadline, f"{wanted!r} was not seen, but {plain[-800:]!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                with suppress(OSError):  # the other end is closed
                    chunk = os.read(self._end, 65536)
                    self._seen += chunk.decode("utf-8", "replace")
                    if b"\x1b[6n" in chunk:
                        self.types("\x1b[1;1R")  # where is the cursor? a real terminal answers
        before, _, rest = plain.partition(wanted)
        self._seen = rest
        return before


@contextmanager
def at_terminal(where: RunningServer | Path, *arguments: str) -> Iterator[Terminal]:
    """A person at a terminal who has just typed a command; it is killed afterwards."""
    home, port = _place(where)
    end, other = pty.openpty()
    os.set_blocking(end, True)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        env={**environment(home, port, {}), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # now it is its controlling terminal
    )
    os.close(other)
    try:
        yield Terminal(process, end)
    finally:
        process.kill()
        process.wait()
        os.close(end)
