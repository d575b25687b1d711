"""The few cryptographic words that Allod speaks: one cipher, one hash, one slow hash for passphrases.

AES-256-GCM seals (NIST SP 800-38D) with random 96-bit nonces, one message each; HKDF-SHA256 (RFC 5869) makes a key for
each purpose of the root key; argon2id (RFC 9106) makes keys of passphrases.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
Purpose = Literal["database", "backup", "slots"]


class WrongKey(Exception):
    """The key does not open this, or it was changed."""


def new_key() -> bytes:
    """32 random bytes."""
    return os.urandom(KEY_BYTES)


def derive(root: bytes, purpose: Purpose) -> bytes:
    """The key for one purpose: HKDF-SHA256 with an empty salt, one block."""
    extracted = hmac.digest(bytes(32), root, hashlib.sha256)
    return hmac.digest(extracted, f"allod/{purpose}/1".encode() + b"\x01", hashlib.sha256)


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """Nonce and ciphertext. `context` is bound to it: it opens under the same one only."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def open_sealed(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """What was sealed. Raises WrongKey."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise WrongKey("it does not open") from error


def authenticate(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 of `data`."""
    return hmac.digest(key, data, hashlib.sha256)


def stretch(passphrase: str, salt: bytes, *, memory_kib: int, rounds: int, lanes: int) -> bytes:
    """A key from a passphrase by argon2id; 64 MiB, 3 rounds and 4 lanes take a fifth of a second."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=rounds, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase.encode())
