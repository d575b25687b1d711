"""Programs run behind the jail's walls and without them, as one user or another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allod.kernel import jail

_NOBODY = 65534
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Ran:
    """What a program did."""

    status: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        (line,) = [line for line in self.errors.splitlines() if line.startswith("allod-walls ")]
        return dict(json.loads(line.removeprefix("allod-walls ")))


@dataclass(frozen=True)
class Who:
    """A user, an interpreter that this user can run, and folders of theirs: `inner` is the jail's, `outer` is not."""

    identity: Mapping[str, Any]
    python: str
    prefix: str
    jail: Path
    folder: Path
    offered: Mapping[str, Any]

    @property
    def inner(self) -> Path:
        return self.folder / "in"

    @property
    def outer(self) -> Path:
        return self.folder / "out"

    @property
    def is_root(self) -> bool:
        return not self.identity and os.geteuid() == 0

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, cwd="/", **{**pipes, **self.identity, **options})

    def run(self, command: Sequence[str], **options: Any) -> Ran:
        with self.start(command, **options) as process:
            output, errors = process.communicate(timeout=60)
        return Ran(process.returncode, output.strip(), errors)

    def program(self, code: str, *arguments: object) -> list[str]:
        return [self.python, "-I", "-S", "-c", textwrap.dedent(code), *map(str, arguments)]

    def walled(self, program: Sequence[str], **changes: Any) -> list[str]:
        """The command that runs a program behind walls. `read` adds to what an interpreter needs."""
        spec = {"parent": os.getpid(), "environment": {}, "write": [str(self.inner)], **changes}
        spec["read"] = [self.python, self.prefix, *_LIBRARIES, *map(str, changes.get("read", ()))]
        return [self.python, "-I", "-S", str(self.jail), json.dumps(spec), "--", *program]

    def outside(self, code: str, *arguments: object, **options: Any) -> Ran:
        return self.run(self.program(code, *arguments), **options)

    def inside(self, code: str, *arguments: object, **changes: Any) -> Ran:
        return self.run(self.walled(self.program(code, *arguments), **changes))

    def own(self, path: Path) -> Path:
        if self.identity:
            os.chown(path, _NOBODY, _NOBODY)
        return path


def _interpreter(identity: Mapping[str, Any]) -> tuple[str, str] | None:
    """An interpreter that this user can run, outside any virtual environment, and its prefix."""
    asked = "import ctypes, json, resource, sys; print(sys.version_info >= (3, 11), sys.base_prefix)"
    found = [shutil.which(name, path="/usr/bin:/usr/local/bin") for name in ("python3", "python3.11")]
    for candidate in filter(None, [os.path.realpath(sys.executable), *found]):
        command = [candidate, "-I", "-S", "-c", asked]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, cwd="/", check=False, **identity
            ).stdout
        except OSError:  # in a folder that this user may not enter
            continue
        fits, _, prefix = answer.strip().partition(" ")
        if fits == "True":
            return os.path.realpath(candidate), prefix
    return None


@contextmanager
def user(*, is_nobody: bool) -> Iterator[Who | None]:
    """Whoever runs the tests, or nobody, with folders for the time being; None where they can run no interpreter."""
    identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if is_nobody else {}
    found = _interpreter(identity)
    if found is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="jail-") as name:
        folder = Path(name)
        copy = Path(shutil.copy(jail.__file__, folder / "jail.py"))
        who = Who(identity, *found, copy, folder, {})
        who.inner.mkdir(mode=0o700)
        who.outer.mkdir(mode=0o700)
        for path in (folder, copy, who.inner, who.outer):
            who.own(path)
        probed = who.run([who.python, "-I", "-S", str(copy), "--probe"])
        yield replace(who, offered=json.loads(probed.output))
