"""Extensions of other packages, and an environment in which they are installed beside Allod.

Two of them lie here, for tests; two more are the examples of docs/extensions.md, written out as the page has them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = Path(__file__).parent
PAGE = PACKAGES.parents[1] / "docs/extensions.md"
_CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^`([^`\n]+)`[:：]\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Environment:
    """A virtual environment that sees all of this one's packages, Allod itself included, and has pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True, symlinks=True)
        self.python = folder / "bin/python"
        site = Path(self._run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        ours = sysconfig.get_path("purelib")
        (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")

    def install(self, *packages: Path) -> None:
        """Pip install, with what is on this machine."""
        self._run(
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"),
            *("--no-build-isolation", *map(str, packages)),
        )

    def uninstall(self, name: str) -> None:
        self._run("-m", "pip", "uninstall", "--quiet", "--yes", "--disable-pip-version-check", name)

    def _run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pytest(self, folder: Path, *arguments: str) -> str:
        """Run the tests of a folder there."""
        return self._run(
            "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "--rootdir", str(folder), str(folder), *arguments
        )


def code_of(page: Path) -> Sequence[tuple[str, str]]:
    """The code blocks of a Markdown page: language and text."""
    return _CODE.findall(page.read_text("utf-8"))


def files_of(text: str) -> Mapping[str, str]:
    """The code blocks of a Markdown text that are files: each is headed by its name, alone on a line."""
    return dict(_FILE.findall(text))


def section_of(page: Path, title: str) -> str:
    """What stands under a heading, up to the next one."""
    _, found, rest = page.read_text("utf-8").partition(f"\n## {title}\n")
    assert found, f"{page.name} has no section {title!r}"
    return rest.partition("\n## ")[0]


def package_of(section: str, folder: Path) -> Path:
    """The package of a section of docs/extensions.md, written out as the page has it."""
    for name, text in files_of(section_of(PAGE, section)).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return folder


def commands_of(section: str) -> list[list[str]]:
    """The commands of a section of docs/extensions.md, each as its words behind `allod`."""
    shell = "".join(text for language, text in _CODE.findall(section_of(PAGE, section)) if language == "sh")
    lines = [shlex.split(line, comments=True) for line in shell.splitlines()]
    assert all(words[0] == "allod" for words in lines)
    return [words[1:] for words in lines]


assert sys.prefix != sys.base_prefix, "the tests run in a virtual environment"
