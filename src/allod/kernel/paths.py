"""Where things lie. All below one data folder, so that it can be moved as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    def old_api_keys(self) -> Path:
        """Where the first version kept its API keys; they move into the store."""
        return self.data / "api_keys.json"

    @property
    def blobs(self) -> Path:
        """Sealed files of extensions, in a folder for each."""
        return self.data / "blobs"

    @property
    def backups(self) -> Path:
        """Copies of the store from before its tables were changed."""
        return self.data / "backups"

    @property
    def lock(self) -> Path:
        """Held by the one server, or the one restore, that works on this folder."""
        return self.data / "lock"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a server that was started for a command's time goes on; see `wait_until_unheld`."""
        handle = self._open_holders()
        if handle is None:
            yield
            return
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # waits while such a server is just ending
            yield
        finally:
            os.close(handle)

    def wait_until_unheld(self) -> None:
        """Wait until no command holds the server any more. From then on those that come wait for this process's end."""
        handle = self._open_holders()
        if handle is not None:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)

    def _open_holders(self) -> int | None:
        """A file to lock; None where there is no such thing, or no data folder that can be written yet."""
        if sys.platform == "win32":
            return None
        try:
            self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.run / "holders", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return None

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


@contextlib.contextmanager
def new_file(place: Path) -> Iterator[BinaryIO]:
    """A file that was not there, for this user alone, and safely on the disk in the end."""
    with open(place, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


def flush_folders(*folders: Path) -> None:
    """Have the names in these folders safely on the disk, where the system can: files alone are not enough."""
    if sys.platform == "win32":
        return
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """Inside, nobody else works on this data folder. Raises StartFailed where somebody does."""
    try:
        handle = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartFailed(
            f"The data folder {paths.data} cannot be written: {error.strerror}.",
            fix="Make it writable, or set ALLOD_HOME to another one.",
        ) from error
    try:
        _lock(handle, paths)
        yield
    finally:
        os.close(handle)  # which frees it, as the process's end would


def _lock(handle: int, paths: Paths) -> None:
    try:
        if sys.platform == "win32":  # not tested: no Windows at hand
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StartFailed(
            f"The data folder {paths.data} is in use{_by_whom(paths)}.",
            fix="Stop it first, or set ALLOD_HOME to another data folder.",
        ) from error


def _by_whom(paths: Paths) -> str:
    try:
        said = json.loads(paths.server_file.read_text())
        command = psutil.Process(said["pid"]).cmdline()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return " by another server"
    own_time = " of another command, with which it ends" if "--stop-with-stdin" in command else ""
    return f" by the server{own_time} at {said['urls'][0]} (process {said['pid']})"


def _belongs_to_nobody(pid: str) -> bool:
    """Whether the process has ended. One of our own id has: in a container every server gets the same."""
    try:
        return int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
    except (ValueError, OverflowError):  # not a folder that we made
        return False
