"""API keys: made once, shown once, kept as hashes in the store, each with its rights.

A key holds 256 random bits, so one round of SHA-256 is enough: there is nothing to guess. All are in memory too, since
every request asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from allod.kernel import schema
from allod.kernel.storage import Database
from allod.sdk.errors import BadRequest, NotFound, StartFailed

RIGHTS = ("read", "chat", "admin")
"""What a key may: see what is kept, ask models, everything. Also the name of an extension: all of its routes."""

_PREFIX = "sk-allod-"
_table = schema.api_keys


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key. Times in seconds since 1970; `expires_at` is None where it holds for ever."""

    id: str
    name: str
    sha256: str
    rights: frozenset[str]
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None

    @property
    def has_expired(self) -> bool:
        """Whether it opens nothing any more."""
        return self.expires_at is not None and self.expires_at <= time.time()


class ApiKeys:
    """The keys of one store. Without one (`attach`), only the server's own user has a key."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}
        self._own = ApiKey("own", "own", "", frozenset({"admin"}), 0)
        self._database: Database | None = None
        self._used: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(not key.has_expired for key in self._keys.values())

    async def attach(self, database: Database, old_file: Path) -> None:
        """Read all keys. Those of a file that an earlier version kept move into the store, and the file goes."""
        self._database = database
        await database.write(lambda connection: _adopt(connection, old_file))
        await asyncio.to_thread(old_file.unlink, missing_ok=True)
        rows = await database.read(lambda connection: connection.execute(select(_table)).mappings().all())
        self._keys = {
            row["id"]: ApiKey(**{**row, "rights": frozenset(json.loads(row["rights"]))}) for row in rows
        }

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        keys = sorted(self._keys.values(), key=lambda key: key.created_at)
        return [replace(key, last_used_at=self._used.get(key.id, key.last_used_at)) for key in keys]

    async def create(
        self, name: str, rights: Sequence[str] = ("chat",), expires_at: float | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is not kept."""
        assert self._database is not None
        if not rights:
            raise BadRequest(
                "A key needs at least one right.", fix=f"One of {', '.join(RIGHTS)}.", param="rights"
            )
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            f"key_{secrets.token_hex(4)}", name, _hash(secret), frozenset(rights), time.time(), expires_at
        )
        await self._database.write(lambda connection: _insert(connection, [key]))
        self._keys[key.id] = key
        return key, secret

    def create_own(self) -> str:
        """The secret of this server's own user, for as long as it runs; see the run file in app.py."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        self._own = replace(self._own, sha256=_hash(secret))
        return secret

    async def remove(self, key_id: str) -> None:
        """Forget a key, at once. Raises NotFound."""
        if key_id not in self._keys:
            raise NotFound(f"No API key has the id {key_id!r}.", fix="`allod keys list` names them.")
        assert self._database is not None

        def work(connection: Connection) -> None:
            connection.execute(delete(_table).where(_table.c.id == key_id))

        del self._keys[key_id]  # first: from here on it opens nothing
        await self._database.write(work)

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret, if it still holds. Compares with every key, each in constant time."""
        digest = _hash(secret)
        found = self._own if hmac.compare_digest(self._own.sha256, digest) else None
        for key in self._keys.values():
            if hmac.compare_digest(key.sha256, digest) and not key.has_expired:
                found = key
                self._used[key.id] = time.time()
        return found

    def holds(self, key_id: str | None) -> bool:
        """Whether the key of this id still opens something."""
        key = self._own if key_id == self._own.id else self._keys.get(key_id or "")
        return key is not None and not key.has_expired

    async def flush(self) -> None:
        """Keep when each key was last used; called once a minute and at the end."""
        used, self._used = self._used, {}
        if not used or self._database is None:
            return
        self._keys |= {
            key_id: replace(self._keys[key_id], last_used_at=at)
            for key_id, at in used.items()
            if key_id in self._keys
        }

        def work(connection: Connection) -> None:
            for key_id, at in used.items():
                connection.execute(update(_table).where(_table.c.id == key_id).values(last_used_at=at))

        await self._database.write(work)


def _insert(connection: Connection, keys: Sequence[ApiKey]) -> None:
    for key in keys:
        connection.execute(
            insert(_table).prefix_with("OR IGNORE"), {**asdict(key), "rights": json.dumps(sorted(key.rights))}
        )


def _adopt(connection: Connection, file: Path) -> None:
    """Take over the keys of the first version's file."""
    if not file.exists():
        return
    try:
        keys = [_old(key) for key in json.loads(file.read_text())]
    except (ValueError, TypeError, KeyError) as error:
        raise StartFailed(f"{file} is damaged.", fix="Move it away, and make new API keys.") from error
    _insert(connection, keys)


def _old(key: dict[str, object]) -> ApiKey:
    """A key of the first version, which could do everything."""
    return ApiKey(
        str(key["id"]),
        str(key["name"]),
        str(key["sha256"]),
        frozenset({"admin"}),
        float(str(key["created_at"])),
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
