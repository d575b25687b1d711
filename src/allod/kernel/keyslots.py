"""keyslots.json: several locks on one root key, as on a disk encrypted with LUKS; any one of them opens it.

    secret of a slot -> KEK -> the slot's private key -> the root key (and, while it is being changed, the next one)

The root is sealed to each slot's public key (HPKE, RFC 9180), so that it can be changed without asking for every
passphrase. All of the file is authenticated under the root: who cannot open it cannot add a lock to it.
This module knows the file's form and makes new forms of it; where secrets come from is keysources.py's matter.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from allod.kernel import crypto
from allod.kernel.disk import of_disk
from allod.kernel.paths import flush_folders

Kind = Literal["passphrase", "recovery", "keyring", "keyfile", "credential"]
KINDS: tuple[Kind, ...] = ("passphrase", "recovery", "keyring", "keyfile", "credential")
ASKED: tuple[Kind, ...] = ("passphrase", "recovery")
"""Kinds whose secret a person gives. They alone open the store on another machine."""

VERSION = 1
_ARGON2ID = {"memory_kib": 65536, "rounds": 3, "lanes": 4}
_MOST_KIB, _MOST_ROUNDS = 4 << 20, 64  # a file that asks for more would only keep the machine busy
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: nothing that looks like something else
_CODE_LETTERS = 32


class Damaged(Exception):
    """keyslots.json is not what was written."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One lock. `stretch` is argon2id's salt and cost, for passphrases only; the rest is sealed."""

    id: str
    kind: Kind
    created_at: float
    public: bytes
    private: bytes
    root: bytes
    next_root: bytes = b""
    stretch: dict[str, Any] = field(default_factory=dict)

    def kek(self, secret: str) -> bytes:
        """The key that `secret` makes for this slot. Takes a fifth of a second for a passphrase."""
        if self.kind == "passphrase":
            return crypto.stretch(secret, **self.stretch)
        return crypto.authenticate(secret.encode(), _context(self.id))


@dataclass(frozen=True, slots=True)
class Opened:
    """What a slot's secret opened: the root key and, where a change of it was not finished, the next one."""

    slot: Slot
    root: bytes
    next_root: bytes = b""


@dataclass(frozen=True, slots=True)
class KeySlots:
    """The whole file. `has_store`: a store was made with this root, so a missing one is a loss, not a beginning."""

    id: str
    slots: tuple[Slot, ...] = ()
    has_store: bool = False
    written: int = 0  # how often; of two files the one that was written last counts

    def open(self, slot: Slot, secret: str) -> Opened:
        """Open one slot. Raises WrongKey, and Damaged where the secret is right but the file was changed."""
        private = crypto.open_sealed(slot.kek(secret), slot.private, _context(slot.id))
        root = _unsealed(private, slot.root, slot.id)
        return Opened(slot, root, _unsealed(private, slot.next_root, slot.id) if slot.next_root else b"")

    def with_slot(self, root: bytes, kind: Kind, secret: str) -> tuple[KeySlots, Slot]:
        """With one more lock, which `secret` opens."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        pair = X25519PrivateKey.generate()
        stretch = {"salt": os.urandom(16), **_ARGON2ID} if kind == "passphrase" else {}
        slot_id = f"slot_{secrets.token_hex(4)}"
        bare = Slot(slot_id, kind, time.time(), pair.public_key().public_bytes_raw(), b"", b"", b"", stretch)
        sealed = crypto.seal(bare.kek(secret), pair.private_bytes_raw(), _context(slot_id))
        slot = replace(bare, private=sealed, root=_sealed(bare.public, root, slot_id))
        return replace(self, slots=(*self.slots, slot)), slot

    def without(self, slot_id: str) -> KeySlots:
        """Without this lock."""
        return replace(self, slots=tuple(slot for slot in self.slots if slot.id != slot_id))

    def with_next_root(self, root: bytes) -> KeySlots:
        """With `root` as the one that comes next, under every lock."""
        return self._each(lambda slot: replace(slot, next_root=_sealed(slot.public, root, slot.id)))

    def with_next_as_root(self) -> KeySlots:
        """With the next root as the only one."""
        assert all(slot.next_root for slot in self.slots), "each lock has the next root"
        return self._each(lambda slot: replace(slot, root=slot.next_root, next_root=b""))

    def without_next_root(self) -> KeySlots:
        """With the change of the root given up."""
        return self._each(lambda slot: replace(slot, next_root=b""))

    def _each(self, change: Callable[[Slot], Slot]) -> KeySlots:
        return replace(self, slots=tuple(map(change, self.slots)))

    def opens_elsewhere(self) -> bool:
        """Whether a new machine could open it: a person knows a passphrase or has a recovery code."""
        return any(slot.kind in ASKED for slot in self.slots)


# the file


def read(file: Path) -> tuple[KeySlots, bytes]:
    """The slots and the seal over them, for `check`. Raises Damaged, FileNotFoundError."""
    return parse(file.read_bytes())


def parse(data: bytes) -> tuple[KeySlots, bytes]:
    """As read, from bytes."""
    try:
        said = json.loads(data)
        if said["version"] != VERSION:
            raise Damaged(f"it is of version {said['version']!r}, and this program knows {VERSION}")
        slots = tuple(_slot(each) for each in said["slots"])
        known = KeySlots(str(said["id"]), slots, bool(said["has_store"]), int(said["written"]))
        return known, _bytes(said["seal"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("it is not what was written") from error


def check(slots: KeySlots, seal: bytes, root: bytes) -> None:
    """Raises Damaged unless `slots` are just what was written by one who had this root."""
    if not secrets.compare_digest(_seal(slots, root), seal):
        raise Damaged("it was changed by someone who does not have its key")


def write(file: Path, slots: KeySlots, root: bytes) -> KeySlots:
    """Replace the file, whole or not at all, and keep the same in a second one beside it. Gives what was written.

    Raises StoreFull, StoreReadOnly.
    """
    slots = replace(slots, written=slots.written + 1)
    data = json.dumps({**_body(slots), "seal": _text(_seal(slots, root))}, indent=1).encode()
    for each in (file, second(file)):
        part = each.with_suffix(".part")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            part.replace(each)
            flush_folders(file.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise of_disk(error) from error
    return slots


def second(file: Path) -> Path:
    """Where the second copy lies."""
    return file.with_name(f"{file.stem}.copy.json")


def _body(slots: KeySlots) -> dict[str, Any]:
    return {
        "version": VERSION,
        "id": slots.id,
        "has_store": slots.has_store,
        "written": slots.written,
        "slots": [
            {
                "id": slot.id,
                "kind": slot.kind,
                "created_at": slot.created_at,
                "public": _text(slot.public),
                "private": _text(slot.private),
                "root": _text(slot.root),
                "next_root": _text(slot.next_root),
                "stretch": {**slot.stretch, "salt": _text(slot.stretch["salt"])} if slot.stretch else {},
            }
            for slot in slots.slots
        ],
    }


def _slot(said: dict[str, Any]) -> Slot:
    stretch = dict(said["stretch"])
    if stretch:
        stretch = {"salt": _bytes(stretch["salt"]), **{name: int(stretch[name]) for name in _ARGON2ID}}
        if stretch["memory_kib"] > _MOST_KIB or stretch["rounds"] > _MOST_ROUNDS:
            raise ValueError("it asks for too much")
    if said["kind"] not in KINDS:
        raise ValueError("it is of no known kind")
    return Slot(
        id=str(said["id"]),
        kind=said["kind"],
        created_at=float(said["created_at"]),
        public=_bytes(said["public"]),
        private=_bytes(said["private"]),
        root=_bytes(said["root"]),
        next_root=_bytes(said["next_root"]),
        stretch=stretch,
    )


def _seal(slots: KeySlots, root: bytes) -> bytes:
    body = json.dumps(_body(slots), sort_keys=True, separators=(",", ":")).encode()
    return crypto.authenticate(crypto.derive(root, "slots"), body)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


# sealing a root to a slot


def _context(slot_id: str) -> bytes:
    return b"allod/slot/1|" + slot_id.encode()


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _sealed(public: bytes, root: bytes, slot_id: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return bytes(_suite().encrypt(root, X25519PublicKey.from_public_bytes(public), info=_context(slot_id)))


def _unsealed(private: bytes, sealed: bytes, slot_id: str) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        pair = X25519PrivateKey.from_private_bytes(private)
        return bytes(_suite().decrypt(sealed, pair, info=_context(slot_id)))
    except (InvalidTag, ValueError) as error:
        raise Damaged("a slot's own key does not open its root") from error


# recovery codes


def new_code() -> str:
    """160 random bits to be printed: eight groups of four letters."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LETTERS))
    return "-".join(letters[start : start + 4] for start in range(0, _CODE_LETTERS, 4))


def as_code(text: str) -> str | None:
    """`text` as the recovery code that was meant, however it was typed; None where it is none."""
    letters = "".join(text.upper().replace("O", "0").replace("I", "1").replace("L", "1").split()).replace(
        "-", ""
    )
    if len(letters) != _CODE_LETTERS or not set(letters) <= set(_ALPHABET):
        return None
    return "-".join(letters[start : start + 4] for start in range(0, _CODE_LETTERS, 4))


def of_kind(slots: Iterable[Slot], kind: Kind) -> list[Slot]:
    """Those of one kind."""
    return [slot for slot in slots if slot.kind == kind]
