"""Sessions of a browser: two halves, of which neither is enough alone.

Browsers hand a cookie to every port of `localhost`, so a cookie that another program there gets to see must open
nothing: the other half lies in this origin's storage and comes as a header. Both are kept as hashes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, delete, insert, select, update

from allod.kernel import schema
from allod.kernel.storage import Database
from allod.sdk.errors import NotFound

LASTS_S = 30 * 86400
"""Sliding: from the last use."""

TOKEN_S = 60
_table = schema.sessions


@dataclass(frozen=True, slots=True)
class Session:
    """What is kept of a session. `label` says of which browser. Times in seconds since 1970."""

    id: str
    cookie_sha256: str
    header_sha256: str
    label: str
    created_at: float
    last_used_at: float
    expires_at: float


class Sessions:
    """The sessions of one store, and the tokens by which they are opened."""

    def __init__(self) -> None:
        self._by_cookie: dict[str, Session] = {}
        self._tokens: dict[str, float] = {}
        self._database: Database | None = None
        self._used: dict[str, Session] = {}

    async def attach(self, database: Database) -> None:
        """Read all sessions; those that have ended go."""
        self._database = database

        def work(connection: Connection) -> list[Session]:
            connection.execute(delete(_table).where(_table.c.expires_at <= time.time()))
            return [Session(**row) for row in connection.execute(select(_table)).mappings()]

        self._by_cookie = {session.cookie_sha256: session for session in await database.write(work)}

    def new_token(self) -> str:
        """What opens one session, once, within 60 s."""
        now = time.monotonic()
        self._tokens = {hashed: until for hashed, until in self._tokens.items() if until > now}
        token = secrets.token_urlsafe(32)
        self._tokens[_hash(token)] = now + TOKEN_S
        return token

    def take_token(self, token: str) -> bool:
        """Whether this token was made here, not used yet, and not 60 s ago. It is used now."""
        return self._tokens.pop(_hash(token), 0.0) > time.monotonic()

    async def open(self, label: str) -> tuple[Session, str, str]:
        """A new session, its cookie and its header; neither is kept."""
        assert self._database is not None
        cookie, header = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        now = time.time()
        session = Session(
            f"session_{secrets.token_hex(4)}",
            _hash(cookie),
            _hash(header),
            label[:200],
            now,
            now,
            now + LASTS_S,
        )

        def work(connection: Connection) -> None:
            connection.execute(insert(_table), asdict(session))

        await self._database.write(work)
        self._by_cookie[session.cookie_sha256] = session
        return session, cookie, header

    def find(self, cookie: str, header: str) -> Session | None:
        """The session with both these halves, if it has not ended. Using it makes it last."""
        session = self._by_cookie.get(_hash(cookie))
        now = time.time()
        if session is None or session.expires_at <= now:
            return None
        if not hmac.compare_digest(session.header_sha256, _hash(header)):
            return None
        if now - session.last_used_at > TOKEN_S:
            session = replace(session, last_used_at=now, expires_at=now + LASTS_S)
            self._by_cookie[session.cookie_sha256] = self._used[session.id] = session
        return session

    def holds(self, session_id: str | None) -> bool:
        """Whether the session of this id has not ended."""
        return any(session.id == session_id for session in self.all())

    def all(self) -> list[Session]:
        """Those that have not ended, last used first."""
        now = time.time()
        kept = [session for session in self._by_cookie.values() if session.expires_at > now]
        return sorted(kept, key=lambda session: -session.last_used_at)

    async def end(self, session_id: str) -> None:
        """End a session, at once. Raises NotFound."""
        assert self._database is not None
        kept = {cookie: session for cookie, session in self._by_cookie.items() if session.id != session_id}
        if len(kept) == len(self._by_cookie):
            raise NotFound(f"No session has the id {session_id!r}.", fix="`allod sessions` lists them.")
        self._by_cookie = kept
        self._used.pop(session_id, None)

        def work(connection: Connection) -> None:
            connection.execute(delete(_table).where(_table.c.id == session_id))

        await self._database.write(work)

    async def flush(self) -> None:
        """Keep when each session was last used; called once a minute and at the end."""
        used, self._used = self._used, {}
        if not used or self._database is None:
            return

        def work(connection: Connection) -> None:
            for session in used.values():
                values = {"last_used_at": session.last_used_at, "expires_at": session.expires_at}
                connection.execute(update(_table).where(_table.c.id == session.id).values(values))

        await self._database.write(work)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
