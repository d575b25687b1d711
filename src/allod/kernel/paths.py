"""Where things lie. All below one data folder, so that it can be moved as a whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil

from allod.sdk.errors import StartFailed

_LONGEST_SOCKET_PATH = 90  # sun_path holds 108 bytes on Linux, 104 on macOS; the rest is for the child's own


def data_folder() -> Path:
    """The data folder: ALLOD_HOME, or the platform's place for an application's data."""
    home = os.environ.get("ALLOD_HOME")
    return (
        Path(home).expanduser().resolve() if home else platformdirs.user_data_path("allod", appauthor=False)
    )


@dataclass(frozen=True, slots=True)
class Paths:
    """The data folder's rooms."""

    data: Path

    @property
    def config(self) -> Path:
        """The user's settings, written by hand."""
        return self.data / "config.toml"

    @property
    def models(self) -> Path:
        """Model files that the user put here."""
        return self.data / "models"

    @property
    def run(self) -> Path:
        """What exists only while a server runs."""
        return self.data / "run"

    @property
    def server_file(self) -> Path:
        """Says which server runs on this data folder: pid, urls, version."""
        return self.run / "server.json"

    @property
    def store(self) -> Path:
        """The encrypted database."""
        return self.data / "allod.db"

    @property
    def key_slots(self) -> Path:
        """The locks on the store's key."""
        return self.data / "keyslots.json"

    @property
    def backups(self) -> Path:
        """Copies of the store from before its tables were changed."""
        return self.data / "backups"

    def create(self) -> None:
        """Make what is missing, for this user's eyes only. Raises StartFailed if that cannot be done."""
        try:
            for folder in (self.data, self.models, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.data.chmod(0o700)
            self.run.chmod(0o700)
        except OSError as error:
            raise StartFailed(
                f"The data folder {self.data} cannot be used: {error.strerror}.",
                fix="Set ALLOD_HOME to a folder that you may write to.",
            ) from error

    def sockets(self) -> Path:
        """A new 0700 folder for this process's sockets; those of processes that have ended are removed.

        Beside the data folder only where its path is too long for a socket's address.
        """
        for old in self.run.glob("sockets-*"):
            if _belongs_to_nobody(old.name.removeprefix("sockets-")):
                shutil.rmtree(old, ignore_errors=True)
        folder = self.run / f"sockets-{os.getpid()}"
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_PATH:
            return Path(tempfile.mkdtemp(prefix="allod-"))
        folder.mkdir(mode=0o700)
        return folder


def _belongs_to_nobody(pid: str) -> bool:
    """Whether the process has ended. One of our own id has: in a container every server gets the same."""
    try:
        return int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
    except (ValueError, OverflowError):  # not a folder that we made
        return False
