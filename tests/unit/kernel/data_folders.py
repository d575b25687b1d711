"""Data folders with a real store in them, for the tests of backups; and a process for what may be killed."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allod.kernel.authorizer import KERNEL
from allod.kernel.paths import Paths
from allod.kernel.storage import Database
from allod.kernel.vault import Vault

WORDS = "correct horse battery"
_STEPS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "open")


def new_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Paths:
    """An empty data folder of a user who has no key of any other."""
    for name in (
        "ALLOD_KEY_FILE",
        "CREDENTIALS_DIRECTORY",
        "DBUS_SESSION_BUS_ADDRESS",
        "PYTHON_KEYRING_BACKEND",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    paths = Paths(folder / "data")
    paths.create()
    return paths


@contextmanager
def store(paths: Paths, secret: str = "") -> Iterator[tuple[Vault, Database]]:
    """The store of a data folder, open; made if there is none."""
    vault = Vault(paths)
    if not vault.open_by_itself():
        vault.unlock(secret)
    database = vault.open_store()
    try:
        yield vault, database
    finally:
        database.dispose()


def write(database: Database, *texts: str) -> None:
    """Keep some rows."""
    with database.transaction(KERNEL) as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS kernel__notes (text TEXT)")
        for text in texts:
            connection.exec_driver_sql("INSERT INTO kernel__notes VALUES (?)", (text,))


def rows(database: Database) -> list[str]:
    """What was kept, in the order in which it was."""
    with database.transaction(KERNEL) as connection:
        return [row[0] for row in connection.exec_driver_sql("SELECT text FROM kernel__notes ORDER BY rowid")]


def kept(paths: Paths, secret: str = "") -> list[str]:
    """The rows of a data folder's store."""
    with store(paths, secret) as (_, database):
        return rows(database)


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def ends(work: Callable[[], object], *, killed_at: int = 0, below: Path | None = None) -> bool:
    """Do it in a process of its own, killed at its n-th touch of what lies `below`. Whether it came through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that have nothing to do just now
        child = os.fork()
    if child == 0:
        left = [killed_at]

        def step(event: str, arguments: tuple[object, ...]) -> None:
            if event in _STEPS and str(arguments[0]).startswith(str(below)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(step)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)
