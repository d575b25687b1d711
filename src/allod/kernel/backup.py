r"""Sealed backups: all that is kept, in one file. The way back from it is restore.py's. Numbers are big-endian:

    "allod backup\n"
    length(4) | JSON                  the head: version, folder, created_at, allod, slots (all of keyslots.json), salt
    SHA-256 of all before             so that a damaged file is not taken for a wrong passphrase
    chunks                            see chunks.py

Their key: HMAC-SHA256(derive(root, "backup"), salt). Bound to each: that SHA-256.
Inside is a tar stream: allod.db, config.toml, models.json, blobs/. Without a key only the head can be read: the time,
Allod's version, the folder's id, the kinds of its locks and when they were made.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import struct
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from allod import __version__
from allod.kernel import crypto, keyslots
from allod.kernel.chunks import CHUNK_BYTES, plain_chunks, read_frame, sealed_chunks
from allod.kernel.keyslots import ASKED, KINDS, Damaged, Kind
from allod.kernel.paths import Paths, new_file
from allod.kernel.vault import Vault
from allod.sdk.errors import Conflict, NotFound, StoreDamaged, StoreFull

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from allod.kernel.storage import Database

STORE, SETTINGS, BLOBS = "allod.db", ("config.toml", "models.json"), "blobs"
"""What is in a backup."""
COPYING = "backup.part-"
"""How the folders begin that hold the copy which is being read; a killed server leaves one behind."""

_MAGIC = b"allod backup\n"
_VERSION = 1
_LENGTH = struct.Struct(">I")
_MOST_HEAD_BYTES = 1 << 20
_SPARE_BYTES = 1 << 24
_TAR_BLOCK = 512
_BLOB = re.compile(rf"{BLOBS}(/[0-9A-Za-z_-][0-9A-Za-z_.-]{{0,127}}){{1,3}}")
_log = logging.getLogger("allod.backup")


@dataclass(frozen=True, slots=True)
class BackupFile:
    """What a backup says of itself; whether it is true is known once it has been opened.

    `created_at` is in seconds since 1970, `version` Allod's, `kinds` those of its locks.
    """

    created_at: float
    version: str
    folder_id: str
    kinds: tuple[Kind, ...]

    @property
    def opens_elsewhere(self) -> bool:
        """Whether a person's secret opens it, and so another machine."""
        return any(kind in ASKED for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the chunks. `slots`: a keyslots.json; `digest`: what the chunks are bound to."""

    facts: BackupFile
    slots: bytes
    salt: bytes
    digest: bytes


# making one


def sealed(vault: Vault, database: Database, paths: Paths) -> Generator[bytes]:
    """A backup of the moment at which the first piece is asked for; others may read and write meanwhile.

    Blocks: run it in a thread, and close it. What can be known beforehand is raised before the first piece: Locked,
    StoreFull (it needs room for a copy of the store), Conflict while the root key is being changed.
    """
    root = vault.root
    need_room(paths.data, sum(file.stat().st_size for file in paths.data.glob(f"{STORE}*")))
    with tempfile.TemporaryDirectory(prefix=COPYING, dir=paths.data) as folder:
        copy = Path(folder) / STORE
        slots = _snapshot(vault, root, database, paths, copy)
        salt = os.urandom(crypto.KEY_BYTES)
        said = {
            "version": _VERSION,
            "folder": slots["id"],
            "created_at": time.time(),
            "allod": __version__,
            "slots": slots,
            "salt": base64.b64encode(salt).decode(),
        }
        data = json.dumps(said).encode()
        head = _MAGIC + _LENGTH.pack(len(data)) + data
        digest = hashlib.sha256(head).digest()
        yield head + digest
        yield from sealed_chunks(_key(root, salt), digest, _tar(_content(copy, paths)))


def _snapshot(vault: Vault, root: bytes, database: Database, paths: Paths, copy: Path) -> dict[str, Any]:
    """Copy the store. Gives its locks, read after it: they know of a new root that the copy may be under."""
    try:
        database.copy_to(copy)
    except StoreDamaged as error:
        if any(slot.next_root for slot in vault.slots()):
            raise _root_is_changing() from error
        raise
    for file in (paths.key_slots, keyslots.second(paths.key_slots)):
        with contextlib.suppress(OSError, Damaged):  # then the other one may be whole
            data = file.read_bytes()
            keyslots.check(*keyslots.parse(data), root)
            return dict(json.loads(data))
    raise _root_is_changing()


def _root_is_changing() -> Conflict:
    return Conflict(
        "The store's root key is being changed, or keyslots.json is damaged.",
        fix="Wait for the change to end. If there is none, start the server anew, which mends keyslots.json.",
    )


def _content(copy: Path, paths: Paths) -> Iterator[tuple[str, Path]]:
    yield STORE, copy
    for name in SETTINGS:
        if (paths.data / name).is_file():
            yield name, paths.data / name
    left_out = 0
    for file in sorted((paths.data / BLOBS).rglob("*")):  # after the store, so that all that it names is here
        name = file.relative_to(paths.data).as_posix()
        if _BLOB.fullmatch(name) and file.is_file() and not file.is_symlink():
            yield name, file
        elif not file.is_dir():
            left_out += 1
    if left_out:
        _log.warning("%d files in blobs/ are not named like blobs and are not in the backup", left_out)


def _tar(members: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    for name, file in members:
        try:
            source = file.open("rb")
        except FileNotFoundError:  # deleted since it was listed
            continue
        with source:
            info = tarfile.TarInfo(name)
            info.size, info.mode = os.fstat(source.fileno()).st_size, 0o600
            yield info.tobuf(tarfile.GNU_FORMAT)
            left = info.size
            while left:
                piece = source.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise Conflict(f"{name} was changed while it was read.", fix="Make the backup again.")
                left -= len(piece)
                yield piece
            yield bytes(-info.size % _TAR_BLOCK)
    yield bytes(2 * _TAR_BLOCK)


def _key(root: bytes, salt: bytes) -> bytes:
    return crypto.authenticate(crypto.derive(root, "backup"), salt)


def need_room(folder: Path, size: int) -> None:
    """Raises StoreFull unless `size` bytes, and some to spare, are free there."""
    needed = size + _SPARE_BYTES
    if shutil.disk_usage(folder).free < needed:
        raise StoreFull(
            f"This needs {needed >> 20} MiB of free space in {folder}.", fix="Free some, and try again."
        )


# reading one


def open_backup(file: Path) -> BackupFile:
    """What the backup says of itself. It is read without a key, so all that is checked is that it has not been cut.

    Raises NotFound, StoreDamaged.
    """
    with told(file), file.open("rb") as source:
        head = read_head(source)
        if head is None:
            raise Damaged("it is no sealed backup")
        size = os.fstat(source.fileno()).st_size
        is_final = False
        while not is_final:
            length, is_final = read_frame(source)
            source.seek(length, os.SEEK_CUR)
        if source.tell() != size:
            raise Damaged("it is cut short" if source.tell() > size else "something was appended to it")
        return head.facts


def read_head(source: BinaryIO) -> Head | None:
    """The head of a sealed backup, None where `source` is something else. Raises Damaged."""
    begin = source.read(len(_MAGIC) + _LENGTH.size)
    if not begin.startswith(_MAGIC):
        return None
    length = int.from_bytes(begin[len(_MAGIC) :], "big")
    data = source.read(length) if length <= _MOST_HEAD_BYTES else b""
    digest = source.read(hashlib.sha256().digest_size)
    if hashlib.sha256(begin + data).digest() != digest:
        raise Damaged("its head is not what was written")
    try:
        said = json.loads(data)
        if said["version"] != _VERSION:
            raise Damaged(f"it is of version {said['version']!r}, and this program knows {_VERSION}")
        slots = json.dumps(said["slots"], indent=1).encode()
        found = {slot.kind for slot in keyslots.parse(slots)[0].slots}
        kinds = tuple(kind for kind in KINDS if kind in found)
        facts = BackupFile(float(said["created_at"]), str(said["allod"]), str(said["folder"]), kinds)
        return Head(facts, slots, base64.b64decode(said["salt"], validate=True), digest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("its head is not what was written") from error


def unpack(source: BinaryIO, head: Head, root: bytes, folder: Path) -> None:
    """Open what follows `head`, into `folder`, which gets a `blobs/` in any case. Raises Damaged.

    Nothing is written that has not been checked, but only its return says that all is there.
    """
    plain = io.BufferedReader(_Pieces(plain_chunks(_key(root, head.salt), head.digest, source)), CHUNK_BYTES)
    (folder / BLOBS).mkdir(mode=0o700)
    try:
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for info in tar:
                is_ours = info.name in (STORE, *SETTINGS) or _BLOB.fullmatch(info.name)
                member = tar.extractfile(info) if is_ours and info.type == tarfile.REGTYPE else None
                if member is None:
                    raise Damaged("it holds what no backup holds")
                place = folder / info.name
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with new_file(place) as out:
                    shutil.copyfileobj(member, out, CHUNK_BYTES)
    except (tarfile.TarError, FileExistsError) as error:
        raise Damaged("it holds what no backup holds") from error
    while plain.read(CHUNK_BYTES):  # to its very end, or a cut there would not be seen
        pass


class _Pieces(io.RawIOBase):
    """Pieces of bytes, to be read like a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        room = memoryview(buffer)
        count = min(len(room), len(self._held))
        room[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


@contextlib.contextmanager
def told(file: Path) -> Iterator[None]:
    """Turn what can be wrong with the backup `file` into errors for people."""
    try:
        yield
    except Damaged as error:
        raise StoreDamaged(
            f"The backup {file} cannot be used: {error}. Nothing was changed.",
            fix="Take another copy of it, or the version of Allod that made it.",
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFull(
                "The disk is full. Nothing was changed.", fix="Free some space, and try again."
            ) from error
        if str(error.filename) == str(file):
            raise NotFound(f"{file} cannot be read: {error.strerror}.", fix="Look for its name.") from error
        raise
