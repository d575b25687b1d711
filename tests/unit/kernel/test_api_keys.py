"""API keys: shown once, kept as hashes, for this user's eyes only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from allod.kernel.api_keys import ApiKeys
from allod.sdk.errors import NotFound, StartFailed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


def test_a_key_is_found_by_its_secret_alone(file: Path) -> None:
    keys = ApiKeys(file)
    first, secret = keys.create("laptop")
    second, other = keys.create("phone")
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


def test_the_file_holds_no_secret_and_is_for_this_user_only(file: Path) -> None:
    _, secret = ApiKeys(file).create("laptop")
    assert secret.removeprefix("sk-allod-") not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_keys_survive_a_restart(file: Path) -> None:
    key, secret = ApiKeys(file).create("laptop")
    again = ApiKeys(file)
    assert (again.find(secret), again.all(), len(again)) == (key, [key], 1)


def test_a_removed_key_is_refused_at_once_and_after_a_restart(file: Path) -> None:
    keys = ApiKeys(file)
    key, secret = keys.create("laptop")
    kept, _ = keys.create("phone")
    keys.remove(key.id)
    assert keys.find(secret) is ApiKeys(file).find(secret) is None
    assert keys.all() == ApiKeys(file).all() == [kept]


def test_removing_what_is_not_there_is_an_error_that_names_it(file: Path) -> None:
    with pytest.raises(NotFound, match="key_none"):
        ApiKeys(file).remove("key_none")


def test_the_server_s_own_key_is_never_written(file: Path) -> None:
    keys = ApiKeys(file)
    secret = keys.create_own()
    found = keys.find(secret)
    assert found is not None and found.id == "own"
    assert (len(keys), file.exists(), ApiKeys(file).find(secret)) == (0, False, None)


@pytest.mark.parametrize("content", ["", "{", "5", "null", '{"a": 1}', "[1]", '[{"id": "x"}]', "\x00"])
def test_a_damaged_file_is_named(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(StartFailed, match=r"api_keys\.json is damaged"):
        ApiKeys(file)
