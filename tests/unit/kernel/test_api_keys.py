"""API keys: shown once, kept as hashes in the store, each with its rights and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.kernel.api_keys import ApiKeys
from allod.kernel.storage import Database
from allod.sdk.errors import BadRequest, NotFound, StartFailed
from tests.unit.kernel.database import kernel_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with kernel_database(tmp_path) as opened:
        yield opened


async def keys_of(database: Database) -> ApiKeys:
    keys = ApiKeys()
    await keys.attach(database, database.file.with_name("api_keys.json"))
    return keys


async def test_a_key_is_found_by_its_secret_alone(database: Database) -> None:
    keys = await keys_of(database)
    first, secret = await keys.create("laptop")
    second, other = await keys.create("phone")
    assert keys.find(secret) == first
    assert keys.find(other) == second
    for wrong in (
        "",
        "sk-allod-",
        secret[:-1],
        secret + "x",
        secret.upper(),
        first.id,
        first.sha256,
        "schlüssel",
    ):
        assert keys.find(wrong) is None


async def test_keys_survive_a_restart_without_their_secrets(database: Database) -> None:
    key, secret = await (await keys_of(database)).create("laptop", ["read", "admin"])
    again = await keys_of(database)
    assert (again.find(secret), len(again)) == (key, 1)
    assert key.rights == {"read", "admin"}
    rows = await database.read(lambda c: c.exec_driver_sql("SELECT * FROM kernel__api_keys").all())
    assert secret not in str(rows)


async def test_a_removed_key_is_refused_at_once_and_after_a_restart(database: Database) -> None:
    keys = await keys_of(database)
    key, secret = await keys.create("laptop")
    kept, _ = await keys.create("phone")
    await keys.remove(key.id)
    assert keys.find(secret) is (await keys_of(database)).find(secret) is None
    assert keys.all() == (await keys_of(database)).all() == [kept]


async def test_a_key_ends_when_it_was_to_end(database: Database) -> None:
    keys = await keys_of(database)
    _, secret = await keys.create("guest", expires_at=time.time() - 1)
    assert keys.find(secret) is None
    assert len(keys) == 0
    assert [key.has_expired for key in keys.all()] == [True]


async def test_when_a_key_was_last_used_is_kept(database: Database) -> None:
    keys = await keys_of(database)
    _, secret = await keys.create("laptop")
    assert keys.all()[0].last_used_at is None
    before = time.time()
    assert keys.find(secret) is not None
    assert (keys.all()[0].last_used_at or 0) >= before
    await keys.flush()
    assert ((await keys_of(database)).all()[0].last_used_at or 0) >= before


async def test_a_key_without_rights_is_not_made(database: Database) -> None:
    with pytest.raises(BadRequest):
        await (await keys_of(database)).create("nothing", [])


async def test_removing_what_is_not_there_is_an_error_that_names_it(database: Database) -> None:
    with pytest.raises(NotFound, match="key_none"):
        await (await keys_of(database)).remove("key_none")


async def test_the_server_s_own_key_is_never_kept(database: Database) -> None:
    keys = await keys_of(database)
    secret = keys.create_own()
    found = keys.find(secret)
    assert found is not None and found.rights == {"admin"}
    assert (len(keys), (await keys_of(database)).find(secret)) == (0, None)
    assert ApiKeys().find("") is None


async def test_keys_of_the_first_version_move_into_the_store(database: Database) -> None:
    old = database.file.with_name("api_keys.json")
    old.write_text(json.dumps([{"id": "key_1", "name": "laptop", "sha256": "ab" * 32, "created_at": 7}]))
    keys = await keys_of(database)
    assert [(key.id, key.name, key.rights, key.created_at) for key in keys.all()] == [
        ("key_1", "laptop", frozenset({"admin"}), 7.0)
    ]
    assert not old.exists()
    assert [key.id for key in (await keys_of(database)).all()] == ["key_1"]


@pytest.mark.parametrize("content", ["", "{", "5", "null", '{"a": 1}', "[1]", '[{"id": "x"}]', "\x00"])
async def test_a_damaged_file_is_named_and_stays(database: Database, content: str) -> None:
    old = database.file.with_name("api_keys.json")
    old.write_text(content)
    with pytest.raises(StartFailed, match=r"api_keys\.json is damaged"):
        await keys_of(database)
    assert old.read_text() == content
