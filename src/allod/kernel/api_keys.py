"""API keys: made once, shown once, kept as hashes in a file for this user's eyes only.

A key holds 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from allod.sdk.errors import NotFound, StartFailed

_PREFIX = "sk-allod-"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key. `created_at` in seconds since 1970."""

    id: str
    name: str
    sha256: str
    created_at: int


class ApiKeys:
    """The keys of one data folder."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys = _read(file)
        self._own = ""

    def __len__(self) -> int:
        return len(self._keys)

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return list(self._keys)

    def create(self, name: str) -> tuple[ApiKey, str]:
        """A new key and its secret, which is not kept."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(f"key_{secrets.token_hex(4)}", name, _hash(secret), int(time.time()))
        self._keys.append(key)
        self._save()
        return key, secret

    def create_own(self) -> str:
        """The secret of this server's own user, for as long as it runs; see the run file in app.py."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        self._own = _hash(secret)
        return secret

    def remove(self, key_id: str) -> None:
        """Forget a key, at once. Raises NotFound."""
        kept = [key for key in self._keys if key.id != key_id]
        if len(kept) == len(self._keys):
            raise NotFound(f"No API key has the id {key_id!r}.", fix="`allod keys list` names them.")
        self._keys = kept
        self._save()

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret. Compares with every key, each in constant time."""
        digest = _hash(secret)
        found = ApiKey("own", "own", self._own, 0) if hmac.compare_digest(self._own, digest) else None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump([asdict(key) for key in self._keys], file)
        part.replace(self._file)


def _read(file: Path) -> list[ApiKey]:
    try:
        return [ApiKey(**key) for key in json.loads(file.read_text())] if file.exists() else []
    except (ValueError, TypeError) as error:
        raise StartFailed(f"{file} is damaged.", fix="Move it away, and make new API keys.") from error


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
