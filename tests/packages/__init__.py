"""Extensions of other packages, and an environment in which they are installed beside Allod."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = Path(__file__).parent
PAGE = PACKAGES.parents[1] / "docs/extensions.md"


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


def blocks_of(page: Path) -> Sequence[tuple[str, str]]:
    """The code blocks of a Markdown page: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def glossary(folder: Path) -> Path:
    """The package of docs/extensions.md, written out as the page has it."""
    (_, project), (_, module), _, (_, test), *_ = blocks_of(PAGE)
    folder.mkdir()
    (folder / "pyproject.toml").write_text(project)
    (folder / "allod_glossary.py").write_text(module)
    (folder / "test_glossary.py").write_text(test)
    return folder


assert sys.prefix != sys.base_prefix, "the tests run in a virtual environment"
