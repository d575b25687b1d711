"""`make new-extension`: what it writes passes the checks and its tests, in a copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from allod.testing import new_extension

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files, and those that are new, as a fresh clone would have them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=30,
    )
    root = tmp_path / "copy"
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    return root


def run(root: Path, *command: str | Path) -> str:
    """Run a tool of this environment on the copy, whose `allod` comes first."""
    environment = {"PYTHONPATH": f"{root / 'src'}:{root}", "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(root)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=170,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_what_it_writes_passes_as_it_is(copy: Path) -> None:
    written = new_extension.write(copy, "two_words")
    points = tomllib.loads((copy / "pyproject.toml").read_text())["project"]["entry-points"][
        "allod.extensions"
    ]
    assert points["two_words"] == "allod.extensions.two_words.extension:TwoWords"
    assert list(points) == sorted(points)
    new = [path for path in written if path.endswith(".py")]
    run(copy, BIN / "ruff", "format", "--check", *new)
    run(copy, BIN / "ruff", "check", *new)
    run(copy, BIN / "mypy", *new)
    run(copy, BIN / "lint-imports", "--no-cache")
    assert "2 passed" in run(
        copy, BIN / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/two_words"
    )


@pytest.mark.parametrize("name", ["Upper", "two__scores", "1st", "", "chat", "kernel", "llamacpp", "a/b"])
def test_names_that_cannot_be_write_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "src/allod/extensions/llamacpp").mkdir(parents=True)
    with pytest.raises(ValueError):
        new_extension.write(tmp_path, name)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def with_an_environment(copy: Path) -> None:
    """Give the copy an environment as `make` would: a copy of this one, since tests fetch nothing."""
    made = copy / ".venv"
    shutil.copytree(BIN.parent, made, symlinks=True)
    for script in (made / "bin").iterdir():
        text = script.read_bytes()
        if not script.is_symlink() and text.startswith(b"#!" + bytes(BIN)):
            script.write_bytes(text.replace(bytes(BIN), bytes(made / "bin")))
    if (ROOT / ".uv").exists():
        (copy / ".uv").symlink_to(ROOT / ".uv")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_make_check_and_the_reference_pages_agree(copy: Path) -> None:
    """The whole way, by make, in an environment of the copy's own."""
    with_an_environment(copy)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True, timeout=30)
    environment = {**os.environ, "UV_OFFLINE": "1"}
    environment.pop("VIRTUAL_ENV", None)
    for target in (
        ["new-extension", "NAME=two_words"],
        ["check"],
        ["test", "ARGS=-x tests/unit tests/contract"],
    ):
        command = ["make", "-s", f"PYTHON={sys.executable}", *target]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
