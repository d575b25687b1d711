"""The house's own rules: who may import whom, who may print, how long a room is, what never stands in a file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import allod.gateway.errors
from allod.sdk.errors import AllodError

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/allod"

LONG = {
    "extensions/llamacpp/catalog.py": 500,
    "extensions/llamacpp/gguf.py": 520,
    "kernel/scheduler.py": 440,
}
"""Modules that may be longer than 400 lines, and how long. Each is one thing that falls apart when it is cut."""

MAY_PRINT = ("cli/", "testing/")
"""Faces, whose stdout is how they speak."""

UNTESTED_ERRORS: frozenset[str] = frozenset()
"""Errors that no test reaches yet. A list to be emptied, never to grow."""


def sources() -> Iterator[tuple[str, str]]:
    for file in sorted(SOURCE.rglob("*.py")):
        yield file.relative_to(SOURCE).as_posix(), file.read_text("utf-8")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_imports_go_down() -> None:
    told = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stdout[-3000:]


def test_no_import_rule_has_exceptions() -> None:
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_nobody_prints_but_faces() -> None:
    printing = [
        f"{name}:{node.lineno}"
        for name, text in sources()
        if not name.startswith(MAY_PRINT)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_no_room_is_too_long() -> None:
    lengths = {name: text.count("\n") for name, text in sources()}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONG.get(name, 400)}
    assert too_long == {}
    assert {name for name in LONG if lengths.get(name, 0) <= 400} == set(), "no longer long: take them off"


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, text in sources() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert silent == []


def errors() -> list[type[AllodError]]:
    assert allod.gateway.errors.Internal is not None
    found: list[type[AllodError]] = []
    waiting: list[type[AllodError]] = [AllodError]
    while waiting:
        below = waiting.pop().__subclasses__()
        found += [kind for kind in below if kind.__module__.startswith("allod.")]
        waiting += below
    return found


@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
def test_every_error_is_reached_by_a_test(kind: type[AllodError]) -> None:
    own_code = "code" in vars(kind)
    wanted = re.compile(rf"\b{kind.__name__}\b" + (rf"|[\"']{kind.code}[\"']" if own_code else ""))
    tests = [file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)]
    reached = any(wanted.search(file.read_text("utf-8")) for file in tests)
    assert reached != (kind.__name__ in UNTESTED_ERRORS)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = (SOURCE / "sdk/errors.py").read_text("utf-8").partition("class AllodError")[0]
    for kind in errors():
        if kind.__module__ != "allod.sdk.errors":
            continue
        status = "-" if kind.__name__ == "StartFailed" else kind.status
        assert re.search(rf"\b{kind.__name__} +{status} +{kind.code}\b", drawn), kind.__name__


MACHINE = re.compile(
    r"/(?:root|work)/|/home/(?!user\b|you\b|me\b|someone\b|ann\b)\w+/|[A-Za-z]:\\\\?Users\\|/Users/\w+/"
)
REGISTRY = re.compile(
    r"https?://[^\s\"')]*(?:/simple\b|pythonhosted|registry\.|proxy\.golang)|--(?:extra-)?index-url[ =]", re.I
)
MAY_NAME_PATHS = {"tests/unit/kernel/test_jail.py": "what a worker must not reach"}


def text_of(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{name}: {match.group()}"
        for file in tracked()
        if (name := file.relative_to(ROOT).as_posix()) != "tests/architecture/test_house.py"
        for pattern in (MACHINE, REGISTRY)
        for match in pattern.finditer(text_of(file))
        if not (pattern is MACHINE and name in MAY_NAME_PATHS)
    ]
    assert found == []


def test_no_lock_file_is_kept() -> None:
    names = {file.name for file in tracked()}
    assert not names & {"uv.lock", "poetry.lock", "Pipfile.lock", "pip.conf", ".pypirc"}
