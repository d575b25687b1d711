"""Where a slot's secret lies when no person gives it: a systemd credential, the OS keyring, a key file.

Each is outside the data folder, or a stolen copy of that folder would bring its own key along.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import platformdirs
import psutil

from allod.kernel.paths import flush_folders
from allod.sdk.errors import StartFailed

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
_KEYRING_S = 3  # a locked keyring asks its owner, and hangs until it is told
_SERVICE = "allod"
_CREDENTIAL = "allod"
_FEWEST_BYTES = 16
_MEMORY_FILES = ("tmpfs", "ramfs", "devtmpfs")
_log = logging.getLogger("allod.vault")

PROTECTS = {
    "passphrase": "Opens with the passphrase only: a stolen machine or copy gives nothing away while it is off.",
    "recovery": "The printed code opens it anywhere: keep it where you keep papers.",
    "keyring": "Your login opens it: a stolen disk or a copy of the data folder gives nothing away.",
    "keyfile": "A key file opens it: a copy of the data folder alone gives nothing away, a stolen disk does.",
    "credential": "systemd opens it, sealed to this machine: a stolen disk or copy gives nothing away.",
}
"""What each kind of slot protects against."""


@dataclass(frozen=True, slots=True)
class KeySources:
    """The sources of one data folder."""

    folder_id: str
    data: Path

    # systemd

    def credential(self) -> str | None:
        """The credential named `allod` (LoadCredentialEncrypted=), None where there is none."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        file = Path(folder) / _CREDENTIAL if folder else None
        return _secret_in(file) if file is not None and file.is_file() else None

    # the keyring

    def from_keyring(self) -> str | None:
        """The secret in the OS keyring; None where there is none, or no keyring answers within 3 s."""
        keyring = _keyring()
        return _within(lambda: keyring.get_password(_SERVICE, self.folder_id)) if keyring else None

    def into_keyring(self) -> str | None:
        """The secret in the OS keyring, made if there is none, never written over; None where no keyring keeps it."""
        keyring = _keyring()
        if keyring is None:
            return None
        found = self.from_keyring()
        if found is not None:
            return found
        secret = secrets.token_hex(32)

        def keep() -> str | None:
            keyring.set_password(_SERVICE, self.folder_id, secret)
            return keyring.get_password(_SERVICE, self.folder_id)

        return secret if _within(keep) == secret else None

    # the key file

    @property
    def key_file(self) -> Path:
        """ALLOD_KEY_FILE, or a file for this data folder in the user's folder for configuration."""
        named = os.environ.get("ALLOD_KEY_FILE")
        if named:
            return Path(named).expanduser().absolute()
        return platformdirs.user_config_path("allod", appauthor=False) / "keys" / f"{self.folder_id}.key"

    def from_key_file(self) -> str | None:
        """The secret in the key file, None where there is no file. Raises StartFailed if it cannot be read."""
        return _secret_in(self.key_file) if self.key_file.exists() else None

    def into_key_file(self) -> str:
        """The secret of the key file, which is made if it is missing. Never writes over one.

        Raises StartFailed where the file would lie inside the data folder, or would be gone with a container's image.
        """
        file = self.key_file
        if file.is_relative_to(self.data):
            raise StartFailed(
                f"The key file {file} lies in the data folder, which it is to guard.",
                fix="Name a file elsewhere by ALLOD_KEY_FILE.",
            )
        if (found := self.from_key_file()) is not None:
            return found
        if not os.environ.get("ALLOD_KEY_FILE") and _dies_with_image(file, self.data):
            raise StartFailed(
                f"This is a container: its volume holds the data folder {self.data}, but not the place of its key "
                f"({file.parent}). With the next image the key would be gone, and all data with it.",
                fix="Either mount a second volume or a secret and name a file on it by ALLOD_KEY_FILE, or run "
                "`allod vault init` once with a terminal, to open the store by a passphrase.",
            )
        secret = secrets.token_hex(32)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(file, flags, 0o600), "w") as out:
                out.write(f"{secret}\n")
                out.flush()
                os.fsync(out.fileno())
            flush_folders(file.parent, file.parent.parent)
        except OSError as error:
            raise StartFailed(
                f"The key file {file} cannot be made: {error.strerror}.",
                fix="Name another by ALLOD_KEY_FILE.",
            ) from error
        return secret


def _secret_in(file: Path) -> str:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise StartFailed(
            f"{file} cannot be read: {error.strerror}.", fix="Let this user read it."
        ) from error
    if len(secret) < _FEWEST_BYTES:
        raise StartFailed(
            f"{file} holds fewer than {_FEWEST_BYTES} bytes.", fix="Put at least 32 random bytes there."
        )
    return secret.decode() if secret.isascii() else secret.hex()


def _keyring() -> KeyringBackend | None:
    """The OS keyring, None where this session has none. Asks nobody."""
    if sys.platform == "linux" and not os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        if not os.environ.get("PYTHON_KEYRING_BACKEND"):
            return None  # no session, so no secret service; this spares an import of 0.1 s
    import keyring
    from keyring.backends import fail, null

    chosen = _within(keyring.get_keyring)
    return None if chosen is None or isinstance(chosen, (fail.Keyring, null.Keyring)) else chosen


def _within(ask: Callable[[], T]) -> T | None:
    """What `ask` says within 3 s; None if it says nothing, or fails."""
    answer: list[T] = []

    def asking() -> None:
        try:
            answer.append(ask())
        except Exception as error:  # each backend has errors of its own
            _log.info("the keyring did not help: %s", type(error).__name__)

    thread = threading.Thread(target=asking, name="keyring", daemon=True)
    thread.start()
    thread.join(_KEYRING_S)
    return answer[0] if answer else None


def is_container() -> bool:
    """Whether this runs in a container, whose own layer is gone with the next image."""
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return True
    return "KUBERNETES_SERVICE_HOST" in os.environ or "container" in os.environ


def _dies_with_image(file: Path, data: Path) -> bool:
    """Whether `file` would lie in the container's own layer while the data folder is on a lasting volume.

    Where both lie in the container's layer, both go together: nothing is lost by the key alone.
    """
    if not is_container():
        return False
    layer = Path("/").stat().st_dev
    return _device(file) == layer and _device(data) != layer and _file_system(data) not in _MEMORY_FILES


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    holding = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else ""
