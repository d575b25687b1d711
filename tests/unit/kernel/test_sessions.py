"""Sessions: both halves or nothing, a token once and within a minute, ended when they end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from allod.kernel.sessions import LASTS_S, TOKEN_S, Sessions
from allod.kernel.storage import Database
from allod.sdk.errors import NotFound
from tests.unit.kernel.database import kernel_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with kernel_database(tmp_path) as opened:
        yield opened


async def sessions_of(database: Database) -> Sessions:
    sessions = Sessions()
    await sessions.attach(database)
    return sessions


async def test_neither_half_is_enough(database: Database) -> None:
    sessions = await sessions_of(database)
    session, cookie, header = await sessions.open("a browser")
    other, other_cookie, other_header = await sessions.open("another")
    assert sessions.find(cookie, header) == session
    assert sessions.find(other_cookie, other_header) == other
    for halves in (
        (cookie, ""),
        ("", header),
        (header, cookie),
        (cookie, other_header),
        (other_cookie, header),
    ):
        assert sessions.find(*halves) is None


async def test_a_session_survives_a_restart_as_hashes(database: Database) -> None:
    session, cookie, header = await (await sessions_of(database)).open("a browser")
    assert (await sessions_of(database)).find(cookie, header) == session
    rows = str(await database.read(lambda c: c.exec_driver_sql("SELECT * FROM kernel__sessions").all()))
    assert cookie not in rows
    assert header not in rows


async def test_an_ended_session_is_refused_at_once_and_after_a_restart(database: Database) -> None:
    sessions = await sessions_of(database)
    session, cookie, header = await sessions.open("a browser")
    await sessions.end(session.id)
    assert sessions.find(cookie, header) is (await sessions_of(database)).find(cookie, header) is None
    with pytest.raises(NotFound):
        await sessions.end(session.id)


async def test_a_session_slides_and_ends(database: Database) -> None:
    sessions = await sessions_of(database)
    session, cookie, header = await sessions.open("a browser")
    then = time.time() - LASTS_S + 100
    sessions._by_cookie[session.cookie_sha256] = replace(
        session, last_used_at=then, expires_at=time.time() + 100
    )
    used = sessions.find(cookie, header)
    assert used is not None and used.expires_at > time.time() + LASTS_S - 60
    await sessions.flush()
    kept = (await sessions_of(database)).all()
    assert [each.expires_at for each in kept] == [used.expires_at]

    sessions._by_cookie[session.cookie_sha256] = replace(session, expires_at=time.time() - 1)
    assert sessions.find(cookie, header) is None
    assert sessions.all() == []


async def test_a_token_opens_once_and_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    token = sessions.new_token()
    assert not sessions.take_token(token + "x")
    assert sessions.take_token(token)
    assert not sessions.take_token(token)
    late = sessions.new_token()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + TOKEN_S + 1)
    assert not sessions.take_token(late)
