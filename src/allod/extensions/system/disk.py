"""How much of the disk the data folder takes, room by room."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

_ROOMS = ("models", "blobs", "backups", "logs")
_STORE = "allod.db"


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes in each room of the data folder (the sizes of its files), and what is free on the disk that it lies on.

    `unread` counts folders and files that the system did not let be looked at: they are not in the sums.
    """

    data_folder: str
    bytes_by_room: dict[str, int]
    total_bytes: int
    free_bytes: int
    unread: int


def measure(data_folder: Path) -> DiskUse:
    """Walk through the whole folder; links are not followed. Blocks, about 15 ms for a thousand files."""
    rooms = dict.fromkeys(("store", *_ROOMS, "other"), 0)
    errors: list[OSError] = []
    for folder, _, names in os.walk(data_folder, onerror=errors.append):
        for name in names:
            file = Path(folder, name)
            try:
                rooms[_room(file.relative_to(data_folder))] += file.lstat().st_size
            except OSError as error:
                errors.append(error)
    # what is gone since it was listed takes no disk any more
    unread = sum(not isinstance(error, FileNotFoundError) for error in errors)
    free = shutil.disk_usage(data_folder).free
    return DiskUse(str(data_folder), rooms, sum(rooms.values()), free, unread)


def _room(file: Path) -> str:
    first = file.parts[0]
    if len(file.parts) == 1:
        return "store" if first.startswith(_STORE) else "other"
    return first if first in _ROOMS else "other"
