"""The key of everything that is kept: opened at start by what this machine holds, or later by a person.

A wrong secret never creates or overwrites anything: files are written only by one who has the root key.
Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allod.kernel import crypto, keyslots
from allod.kernel.crypto import WrongKey
from allod.kernel.keyslots import ASKED, Damaged, KeySlots, Kind, Slot
from allod.kernel.keysources import PROTECTS, KeySources
from allod.kernel.paths import Paths
from allod.kernel.tries import Tries
from allod.sdk.errors import (
    BadRequest,
    Conflict,
    Locked,
    NotFound,
    StartFailed,
    StoreDamaged,
    WrongPassphrase,
)

if TYPE_CHECKING:
    from allod.kernel.storage import Database

FEWEST_LETTERS = 8
_log = logging.getLogger("allod.vault")


class Vault:
    """The locks of one data folder, and its root key once it is open."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._slots: KeySlots | None = None
        self._root: bytes | None = None
        self._next_root = b""
        self._tries = Tries()
        self._lock = threading.RLock()

    @property
    def is_open(self) -> bool:
        """Whether the root key is at hand."""
        return self._root is not None

    @property
    def root(self) -> bytes:
        """The root key. Raises Locked."""
        if self._root is None:
            raise Locked(
                "The store is locked.",
                fix="Unlock it: `allod vault unlock`, or with the passphrase in the browser.",
            )
        return self._root

    @property
    def folder_id(self) -> str:
        """The data folder's own id; empty before there is one."""
        return self._slots.id if self._slots else ""

    @property
    def opens_elsewhere(self) -> bool:
        """Whether a new machine could open the store or a backup of it."""
        return self._slots is not None and self._slots.opens_elsewhere()

    # opening

    def open_by_itself(self) -> bool:
        """Open with what this machine holds; False where a person must unlock it. On the first start, make the key.

        Raises StartFailed where that would lose or overwrite something.
        """
        found = self._candidates()
        if not found:
            self.create()
            return True
        sources = KeySources(found[0][0].id, self._paths.data)
        for kind, get in _own_sources(sources):
            if any(keyslots.of_kind(slots.slots, kind) for slots, _ in found):
                secret = get()
                if secret is not None and self._try(secret, kind, found):
                    return True
        self._slots = found[0][0]
        if not any(keyslots.of_kind(slots.slots, kind) for slots, _ in found for kind in ASKED):
            raise StartFailed(
                f"None of this data folder's keys is here: {self._where_keys_were(sources)}.",
                fix="Bring the key back, or restore a backup that has a passphrase or a recovery code.",
            )
        return False

    def unlock(self, secret: str) -> None:
        """Open with a passphrase or a recovery code; where it is open already, only see whether the secret is right.

        One try at a time, and each wrong one makes the next wait longer. Raises WrongPassphrase, TooManyTries.
        """
        code = keyslots.as_code(secret)
        given: list[tuple[str, Kind]] = [(secret, "passphrase")]
        if code is not None:
            given.append((code, "recovery"))
        with self._tries.one(), self._lock:
            if self.is_open:
                is_right = any(self._opens(text, kind) for text, kind in given)
            else:
                is_right = any(self._try(text, kind, self._candidates()) for text, kind in given)
            if not is_right:
                raise WrongPassphrase(
                    "No lock of the store opens with this.", fix="Mind the keyboard and Caps Lock."
                )

    def _opens(self, secret: str, kind: Kind) -> bool:
        """Whether a lock of this kind opens with it now. Changes nothing."""
        return any(_is_opened(self._known(), slot, secret) for slot in keyslots.of_kind(self.slots(), kind))

    def _try(self, secret: str, kind: Kind, found: list[tuple[KeySlots, bytes]]) -> bool:
        damage: Damaged | None = None
        for slots, seal in found:
            for slot in keyslots.of_kind(slots.slots, kind):
                try:
                    opened = slots.open(slot, secret)
                    keyslots.check(slots, seal, opened.root)
                except WrongKey:
                    continue
                except Damaged as error:
                    damage = error
                    continue
                self._slots, self._root, self._next_root = slots, opened.root, opened.next_root
                self._mend(slots)
                return True
        if damage is not None:
            raise StartFailed(
                f"{self._paths.key_slots} is damaged: {damage}. Nothing was changed.",
                fix="Put a copy of it from a backup in its place.",
            )
        return False

    def _mend(self, slots: KeySlots) -> None:
        """Make the file and its copy alike again."""
        both = (self._paths.key_slots, keyslots.second(self._paths.key_slots))
        if not all(file.exists() for file in both) or both[0].read_bytes() != both[1].read_bytes():
            _log.warning("keyslots.json or its copy was damaged or missing; it has been mended")
            self._write(slots)

    def _candidates(self) -> list[tuple[KeySlots, bytes]]:
        """What the file and its copy say, without what cannot be read. Raises StartFailed if nothing can be."""
        found: list[tuple[KeySlots, bytes]] = []
        damage: Exception | None = None
        for file in (self._paths.key_slots, keyslots.second(self._paths.key_slots)):
            try:
                read = keyslots.read(file)
                if read not in found:
                    found.append(read)
            except FileNotFoundError:
                continue
            except (Damaged, OSError) as error:
                damage = error
        if found:
            return sorted(
                found, key=lambda read: -read[0].written
            )  # after a kill between two writes one is older
        if damage is not None:
            raise StartFailed(
                f"{self._paths.key_slots} cannot be used: {damage}. Nothing was changed.",
                fix="Put a copy of it from a backup in its place.",
            ) from damage
        if self._paths.store.exists():
            raise StartFailed(
                f"{self._paths.store} is there, but its keyslots.json is not; without it nothing opens it.",
                fix="Put keyslots.json back, from a backup or the folder that this one was copied from.",
            )
        return []

    def _where_keys_were(self, sources: KeySources) -> str:
        assert self._slots is not None
        places = {
            "keyfile": f"the key file {sources.key_file} is missing or another one",
            "keyring": "the keyring does not answer, or has lost it",
            "credential": "systemd has handed over no credential named allod, or another one",
        }
        return "; ".join(places[slot.kind] for slot in self._slots.slots if slot.kind in places)

    # the first start

    def create(self, passphrase: str | None = None) -> None:
        """A new root key, under `passphrase`, or else under the best lock that this machine offers unasked.

        Raises Conflict where there is a store already.
        """
        if self._candidates():
            raise Conflict("This data folder has a key already.", fix="`allod vault slots` lists its locks.")
        empty = KeySlots(secrets.token_hex(8))
        root = crypto.new_key()
        if passphrase is not None:
            slots, slot = empty.with_slot(root, "passphrase", _strong(passphrase))
        else:
            kind, secret = _best_secret(KeySources(empty.id, self._paths.data))
            slots, slot = empty.with_slot(root, kind, secret)
        self._root = root
        self._write(slots)
        _log.info("The store is encrypted. %s", PROTECTS[slot.kind])
        if not slots.opens_elsewhere():
            _log.info("No other machine can open it, or a backup of it, yet: run `allod vault add recovery`.")

    # the locks

    def slots(self) -> list[Slot]:
        """All locks, oldest first."""
        return list(self._slots.slots) if self._slots else []

    def add(self, kind: Kind, passphrase: str = "") -> tuple[Slot, str]:
        """One more lock, and for a recovery code the code, which is not kept. Raises Conflict, BadRequest."""
        with self._lock:
            root, slots = self.root, self._known()
            self._check_settled()
            if kind not in ASKED and keyslots.of_kind(slots.slots, kind):
                raise Conflict(f"There is a {kind} already.", fix="`allod vault remove` takes it away first.")
            code = keyslots.new_code() if kind == "recovery" else ""
            secret = code or self._secret_for(kind, passphrase)
            slots, slot = slots.with_slot(root, kind, secret)
            self._write(slots)
            return slot, code

    def _secret_for(self, kind: Kind, passphrase: str) -> str:
        sources = KeySources(self.folder_id, self._paths.data)
        if kind == "passphrase":
            return _strong(passphrase)
        secret = {
            "keyring": sources.into_keyring,
            "keyfile": sources.into_key_file,
            "credential": sources.credential,
        }
        made = secret[kind]()
        if made is None:
            raise Conflict(f"This machine offers no {kind}.", fix="Choose another kind of lock.")
        return made

    def remove(self, slot_id: str) -> None:
        """Take a lock away, at once. Raises NotFound, and Conflict for the last one."""
        with self._lock:
            assert self.root
            self._check_settled()
            slots = self._known()
            slot = next((each for each in slots.slots if each.id == slot_id), None)
            if slot is None:
                raise NotFound(f"No lock has the id {slot_id!r}.", fix="`allod vault slots` lists them.")
            if not self._could_open(slots.without(slot_id)):
                raise Conflict(
                    "Without this lock nobody could open the store: no other one opens it now.",
                    fix="Add another first.",
                )
            # its key file or keyring entry stays: a copy of the folder or a backup may still need it
            self._write(slots.without(slot_id))

    def _could_open(self, slots: KeySlots) -> bool:
        """Whether a person, or this machine as it is now, could open the store with these locks."""
        if slots.opens_elsewhere():
            return True
        for kind, get in _own_sources(KeySources(slots.id, self._paths.data)):
            secret = get() if keyslots.of_kind(slots.slots, kind) else None
            if secret is not None and any(
                _is_opened(slots, slot, secret) for slot in keyslots.of_kind(slots.slots, kind)
            ):
                return True
        return False

    def _check_settled(self) -> None:
        if self._next_root:
            raise Conflict(
                "A change of the root key has not come to its end.", fix="Start the server anew first."
            )

    def change_root(self, database: Database, progress: Callable[[float], None]) -> None:
        """A new root key: the whole store is encrypted anew. All locks stay. Survives being killed at any moment."""
        with self._lock:
            assert self.root
            self._check_settled()
            database.check_room_for_rekey()
            self._next_root = fresh = crypto.new_key()
            self._write(self._known().with_next_root(fresh))
            database.rekey(
                crypto.derive(fresh, "database"), progress
            )  # if it fails, the next start finds out how
            self._root, self._next_root = fresh, b""
            self._write(self._known().with_next_as_root())
            self._drop_old_copies()

    def _drop_old_copies(self) -> None:
        """What is under an old key must not outlive it."""
        shutil.rmtree(self._paths.backups, ignore_errors=True)

    # the store

    def open_store(self) -> Database:
        """The database, made on the first start. Raises StartFailed where it is missing, StoreDamaged."""
        from allod.kernel.storage import Database

        with self._lock:
            root, slots = self.root, self._known()
            if slots.has_store and not _holds_something(self._paths.store):
                raise StartFailed(
                    f"{self._paths.store} is missing or empty.",
                    fix="Restore a backup: allod restore FILE. To begin anew, move keyslots.json away.",
                )
            try:
                database = Database(self._paths.store, crypto.derive(root, "database"))
            except StoreDamaged:
                if not self._next_root:
                    raise
                database = Database(self._paths.store, crypto.derive(self._next_root, "database"))
                self._root, slots = (
                    self._next_root,
                    slots.with_next_as_root(),
                )  # the change had come to its end
            if self._next_root:
                self._next_root = b""
                slots = slots.without_next_root()
            if slots != self._slots or not slots.has_store:
                self._write(replace(slots, has_store=True))
            return database

    def _known(self) -> KeySlots:
        assert self._slots is not None, "an open vault has slots"
        return self._slots

    def _write(self, slots: KeySlots) -> None:
        assert self._root is not None
        self._slots = keyslots.write(self._paths.key_slots, slots, self._root)


def _is_opened(slots: KeySlots, slot: Slot, secret: str) -> bool:
    try:
        slots.open(slot, secret)
    except (WrongKey, Damaged):
        return False
    return True


def _holds_something(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _own_sources(sources: KeySources) -> list[tuple[Kind, Callable[[], str | None]]]:
    return [
        ("credential", sources.credential),
        ("keyring", sources.from_keyring),
        ("keyfile", sources.from_key_file),
    ]


def _best_secret(sources: KeySources) -> tuple[Kind, str]:
    """The best lock that needs nobody: a systemd credential, the keyring, a key file."""
    if (secret := sources.credential()) is not None:
        return "credential", secret
    if (secret := sources.into_keyring()) is not None:
        return "keyring", secret
    return "keyfile", sources.into_key_file()


def _strong(passphrase: str) -> str:
    if len(passphrase) < FEWEST_LETTERS:
        raise BadRequest(
            f"A passphrase needs at least {FEWEST_LETTERS} letters.",
            fix="Take several words.",
            param="passphrase",
        )
    return passphrase
