"""The way back from a backup: what it holds takes the place of what is here, and a kill at any moment loses neither.

It is put together in `restore.part/` and wholly checked there; nothing else is touched meanwhile. Then one rename, to
`restore.ready/`, makes it count: before it all is as it was; after it `settle`, which the next start calls too, moves
what was there into `restore.old/` and the new into its place, and goes on wherever it was killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from allod.kernel import keyslots
from allod.kernel.backup import (
    BLOBS,
    COPYING,
    SETTINGS,
    STORE,
    need_room,
    read_head,
    told,
    unpack,
)
from allod.kernel.chunks import CHUNK_BYTES
from allod.kernel.keyslots import ASKED, Damaged, Kind
from allod.kernel.paths import Paths, flush_folders, new_file
from allod.kernel.vault import Vault
from allod.sdk.errors import Conflict, StartFailed, StoreDamaged

if TYPE_CHECKING:
    from allod.kernel.storage import Database

_PART, _READY, _MOVING, _OLD = "restore.part", "restore.ready", "restore.moving", "restore.old"
# In this order the old goes, and in the opposite one the new comes: while a store is in its place, so are its locks.
_REST = (*SETTINGS, BLOBS)
_KERNEL = (STORE, f"{STORE}-wal", f"{STORE}-shm", "keyslots.json", "keyslots.copy.json")
_log = logging.getLogger("allod.backup")


class SecretNeeded(Exception):
    """Nothing on this machine opens it: a person must give a secret, of one of `kinds`."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        super().__init__(f"a {' or a '.join(kinds)} is needed")
        self.kinds = kinds


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, and the folder that holds what was there before; None where nothing was.

    `version` is the Allod's that made the backup; a bare copy of the store does not say.
    """

    created_at: float
    version: str
    moved_to: Path | None


def restore(file: Path, paths: Paths, secret: str | None = None) -> Restored:
    """Put what `file` holds in the place of what is here; that moves to `before-restore-<time>/`, nothing is deleted.

    `file` is a sealed backup, or a bare copy of this data folder's store (from `backups/`), which leaves settings and
    blobs alone. It is opened by what this machine holds, else by `secret`, a passphrase or a recovery code. Blocks;
    call it inside `paths.locked`, so that no server runs. Raises SecretNeeded where `secret` is None and needed,
    WrongPassphrase, StartFailed where nobody could open it, StoreDamaged, StoreFull, NotFound, Conflict.
    """
    paths.create()
    settle(paths)
    _refuse_mounts(paths)
    staged = Paths(paths.data / _PART)
    with told(file), file.open("rb") as source:
        head = read_head(source)
        facts = os.fstat(source.fileno())
        need_room(paths.data, facts.st_size)
        staged.data.mkdir(mode=0o700)
        try:
            vault = _vault_of(staged, head.slots if head else _locks_of(paths), secret)
            if head is not None:
                unpack(source, head, vault.root, staged.data)
            else:
                _copy_store(file, staged)
            _verify(vault, staged)
            _flush_folders(staged.data)
            staged.data.replace(paths.data / _READY)  # from here on the new state counts
        except BaseException:
            shutil.rmtree(staged.data, ignore_errors=True)
            raise
    moved_to = settle(paths)
    if head is None:
        return Restored(facts.st_mtime, "", moved_to)
    return Restored(head.facts.created_at, head.facts.version, moved_to)


def _locks_of(paths: Paths) -> bytes:
    for file in (paths.key_slots, keyslots.second(paths.key_slots)):
        with contextlib.suppress(OSError, Damaged):  # then the other one may be whole
            data = file.read_bytes()
            keyslots.parse(data)
            return data
    raise Damaged(
        "it is no sealed backup, and this data folder has no key that could open a copy of its store"
    )


def _vault_of(staged: Paths, slots: bytes, secret: str | None) -> Vault:
    """The vault of the folder to be, open."""
    for place in (staged.key_slots, keyslots.second(staged.key_slots)):
        with new_file(place) as out:
            out.write(slots)
    vault = Vault(staged)
    if not vault.open_by_itself():
        if secret is None:
            raise SecretNeeded(tuple(kind for kind in ASKED if keyslots.of_kind(vault.slots(), kind)))
        vault.unlock(secret)
    return vault


def _copy_store(file: Path, staged: Paths) -> None:
    log = file.with_name(f"{file.name}-wal")  # a copy made by hand may have its newest pages there
    for part, place in ((file, staged.store), (log, staged.data / f"{STORE}-wal")):
        if part == file or part.is_file():
            with part.open("rb") as source, new_file(place) as out:
                shutil.copyfileobj(source, out, CHUNK_BYTES)


def _verify(vault: Vault, staged: Paths) -> None:
    """Raises Damaged unless the store that lies there opens and is sound."""
    from allod.kernel.authorizer import KERNEL

    if not staged.store.is_file() or not staged.store.stat().st_size:
        raise Damaged("it holds no store")
    try:
        database = vault.open_store()
        try:
            with database.transaction(KERNEL) as connection:
                tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar()
            problems = database.problems()
            if tables and not problems:
                _end_sessions(database)
        finally:
            database.dispose()
    except StoreDamaged as error:
        raise Damaged("its store does not open with its key, or is damaged") from error
    if not tables or problems:
        raise Damaged("its store is damaged" if problems else "its store is empty")


def _end_sessions(database: Database) -> None:
    """A browser that was sent away since the backup was made stays away; opening one again is one command."""
    from sqlalchemy import delete, inspect

    from allod.kernel.authorizer import KERNEL
    from allod.kernel.schema import sessions

    with database.transaction(KERNEL) as connection:
        if inspect(connection).has_table(sessions.name):
            connection.execute(delete(sessions))


def settle(paths: Paths) -> Path | None:
    """Bring a restore that counts to its end, and clear away what killed backups and restores left half made.

    Gives the folder that holds what was there before the restore; None where there was none. Call it at every start,
    inside `paths.locked`, before anything else is opened. Raises StartFailed where the disk does not let it go on; it
    can be called again.
    """
    data = paths.data
    for left in (data / _PART, *data.glob(f"{COPYING}*")):
        shutil.rmtree(left, ignore_errors=True)
    try:
        if (data / _READY).is_dir():
            _move_old(data)
        if (data / _MOVING).is_dir():
            _move_new(data)
        return _name_old(data)
    except OSError as error:
        raise StartFailed(
            f"What was restored could not be put in place: {error.filename}: {error.strerror}.",
            fix="Mend that, and do the same again: it goes on where it stopped.",
        ) from error


def _move_old(data: Path) -> None:
    ready, old = data / _READY, data / _OLD
    old.mkdir(mode=0o700, exist_ok=True)
    is_whole = (ready / BLOBS).is_dir()  # a bare copy of the store brings none
    for name in (*(_REST if is_whole else ()), *_KERNEL):
        if os.path.lexists(data / name):
            (data / name).replace(old / name)
    flush_folders(old)
    flush_folders(data)
    ready.replace(data / _MOVING)


def _move_new(data: Path) -> None:
    moving = data / _MOVING
    for name in reversed((*_REST, *_KERNEL)):
        if (moving / name).exists():
            (moving / name).replace(data / name)
    flush_folders(data)
    moving.rmdir()


def _name_old(data: Path) -> Path | None:
    old = data / _OLD
    if not old.is_dir():
        return None
    if not any(old.iterdir()):
        old.rmdir()
        return None
    named = kept = data / time.strftime("before-restore-%Y%m%d-%H%M%S")
    number = 1
    while kept.exists():
        number += 1
        kept = named.with_name(f"{named.name}-{number}")
    old.replace(kept)
    flush_folders(data)
    _log.info("a backup was restored; what was there before is in %s", kept)
    return kept


def _refuse_mounts(paths: Paths) -> None:
    """Raises Conflict where something that has to move is mounted on its own, and so cannot."""
    mounted = {part.mountpoint for part in psutil.disk_partitions(all=True)}
    for name in (*_REST, *_KERNEL):
        if str(paths.data.resolve() / name) in mounted:
            raise Conflict(
                f"{paths.data / name} is mounted on its own, so it cannot be moved aside.",
                fix="Restore with it unmounted.",
            )


def _flush_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top):
        flush_folders(Path(folder))
