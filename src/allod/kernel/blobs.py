"""Sealed files beside the store: `blobs/<extension>/<2 hex>/<id>`. Their keys are in the store, with whoever put them.

A file is a stream of chunks.py under HMAC-SHA256(key, id), bound to its extension and id: none can take another's
place. Its size and its extension can be seen without a key, nothing else. It is written under its own name: nobody
knows that before it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from allod.kernel import crypto, disk
from allod.kernel.chunks import CHUNK_BYTES, plain_chunks, sealed_chunks
from allod.kernel.keyslots import Damaged
from allod.kernel.paths import flush_folders, new_file
from allod.sdk.blobs import KEY_BYTES
from allod.sdk.errors import NotFound, StoreDamaged

_log = logging.getLogger("allod.blobs")
_ID = re.compile("[0-9a-f]{32}")


class OwnBlobs:
    """The sealed files of one extension."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder / owner
        self._owner = owner

    async def put(self, data: bytes, key: bytes) -> str:
        """Seal `data` under `key`, and give its id."""
        return await asyncio.to_thread(self._put, data, key)

    def _put(self, data: bytes, key: bytes) -> str:
        id = secrets.token_hex(16)
        file = self._file(id)
        folders = (file.parent, self._folder, self._folder.parent, self._folder.parent.parent)
        try:
            for folder in folders[2::-1]:
                folder.mkdir(mode=0o700, exist_ok=True)
            with new_file(file) as out:
                for chunk in sealed_chunks(*self._lock(id, key), _pieces(data)):
                    out.write(chunk)
            flush_folders(*folders)
        except OSError as error:
            with contextlib.suppress(
                OSError
            ):  # where it cannot be deleted either, it is one that nobody names
                file.unlink(missing_ok=True)
            raise disk.of_disk(error) from error
        return id

    async def get(self, id: str, key: bytes) -> bytes:
        """What was put."""
        return await asyncio.to_thread(self._get, id, key)

    def _get(self, id: str, key: bytes) -> bytes:
        try:
            with self._file(id).open("rb") as source:
                return b"".join(plain_chunks(*self._lock(id, key), source))
        except FileNotFoundError:
            raise _nothing(id) from None
        except Damaged as error:
            _log.error("the file %s of %s cannot be read: %s", id, self._owner, error)
            raise StoreDamaged(
                f"The file {id} of {self._owner!r} cannot be read: {error}.",
                fix="Delete it, or restore a backup: allod restore FILE",
            ) from error
        except OSError as error:
            raise disk.of_disk(error) from error

    async def delete(self, ids: Iterable[str]) -> None:
        """Delete files."""
        await asyncio.to_thread(self._delete, list(ids))

    def _delete(self, ids: Sequence[str]) -> None:
        folders = set()
        try:
            for file in map(self._file, ids):
                if file.exists():
                    file.unlink(missing_ok=True)
                    folders.add(file.parent)
            flush_folders(*folders)
        except OSError as error:
            raise disk.of_disk(error) from error

    async def all(self) -> Sequence[str]:
        """The ids of all that there is."""
        return await asyncio.to_thread(
            lambda: [file.name for file in self._folder.glob("??/*") if _ID.fullmatch(file.name)]
        )

    def _file(self, id: str) -> Path:
        if not _ID.fullmatch(id):  # it may come from an address: no other file is to be reached by it
            raise _nothing(id)
        return self._folder / id[:2] / id

    def _lock(self, id: str, key: bytes) -> tuple[bytes, bytes]:
        """The key that seals this file and nothing else, and what is bound to its chunks."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {KEY_BYTES} bytes is needed, not of {len(key)}")
        return crypto.authenticate(key, id.encode()), f"allod/blob/1/{self._owner}/{id}/".encode()


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _nothing(id: str) -> NotFound:
    return NotFound(f"There is no file {id[:40]!r}.", fix="It was deleted.")
