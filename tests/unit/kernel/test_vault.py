"""The locks on the store's key: each kind opens, nothing else does, and nothing wrong ever writes."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.kernel import crypto, keyslots, keysources
from allod.kernel.authorizer import KERNEL
from allod.kernel.keyslots import Damaged
from allod.kernel.keysources import KeySources
from allod.kernel.paths import Paths
from allod.kernel.vault import Vault
from allod.sdk.errors import (
    BadRequest,
    Conflict,
    Locked,
    NotFound,
    StartFailed,
    StoreDamaged,
    StoreFull,
    TooManyTries,
    WrongPassphrase,
)

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "ALLOD_KEY_FILE",
        "CREDENTIALS_DIRECTORY",
        "DBUS_SESSION_BUS_ADDRESS",
        "PYTHON_KEYRING_BACKEND",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "data")
    made.create()
    return made


def key_file(paths: Paths, vault: Vault) -> Path:
    return KeySources(vault.folder_id, paths.data).key_file


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_first_start_makes_a_key_file_outside_the_data_folder(paths: Paths) -> None:
    vault = Vault(paths)
    assert vault.open_by_itself()
    assert [slot.kind for slot in vault.slots()] == ["keyfile"]
    file = key_file(paths, vault)
    assert not file.is_relative_to(paths.data)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.key_slots.stat().st_mode) == 0o600
    assert not vault.opens_elsewhere

    again = Vault(paths)
    assert again.open_by_itself()
    assert again.root == vault.root


def test_what_is_kept_of_a_slot_is_no_secret(paths: Paths) -> None:
    vault = Vault(paths)
    vault.create(WORDS)
    _, code = vault.add("recovery")
    vault.add("keyfile")
    kept = paths.key_slots.read_text()
    secret = key_file(paths, vault).read_text().strip()
    for word in (WORDS, code, secret, vault.root.hex()):
        assert word not in kept


def test_a_passphrase_and_a_recovery_code_open(paths: Paths) -> None:
    vault = Vault(paths)
    vault.create(WORDS)
    _, code = vault.add("recovery")
    assert vault.opens_elsewhere
    for given in (WORDS, code, code.lower().replace("-", " "), code.replace("0", "O").replace("1", "l")):
        other = Vault(paths)
        assert not other.open_by_itself()
        assert not other.is_open
        with pytest.raises(Locked):
            _ = other.root
        other.unlock(given)
        assert other.root == vault.root


def test_a_wrong_passphrase_writes_nothing_and_makes_the_next_try_wait(paths: Paths) -> None:
    Vault(paths).create(WORDS)
    before = files(paths.data)
    vault = Vault(paths)
    assert not vault.open_by_itself()
    with pytest.raises(WrongPassphrase):
        vault.unlock("correct horse batterz")
    with pytest.raises(TooManyTries) as refused:
        vault.unlock(WORDS)
    assert 0 < (refused.value.retry_after_s or 0) <= 1
    assert not vault.is_open
    time.sleep(refused.value.retry_after_s or 0)
    vault.unlock(WORDS)
    assert files(paths.data) == before


def test_argon2id_costs_what_it_should() -> None:
    vault, slot = keyslots.KeySlots("x").with_slot(crypto.new_key(), "passphrase", WORDS)
    assert {name: slot.stretch[name] for name in ("memory_kib", "rounds", "lanes")} == {
        "memory_kib": 65536,
        "rounds": 3,
        "lanes": 4,
    }
    assert len(slot.stretch["salt"]) == 16
    assert vault.open(slot, WORDS).slot is slot


def test_a_weak_passphrase_is_refused(paths: Paths) -> None:
    with pytest.raises(BadRequest):
        Vault(paths).create("short")
    assert not paths.key_slots.exists()


def test_a_lost_key_file_is_said_and_nothing_is_made_anew(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.open_store().dispose()
    key_file(paths, vault).unlink()
    before = files(paths.data)
    with pytest.raises(StartFailed, match="is missing or another one"):
        Vault(paths).open_by_itself()
    key_file(paths, vault).write_text("another key, long enough\n")
    with pytest.raises(StartFailed, match="another one"):
        Vault(paths).open_by_itself()
    assert files(paths.data) == before


def test_a_lost_key_file_leaves_the_passphrase(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.add("passphrase", WORDS)
    key_file(paths, vault).unlink()
    other = Vault(paths)
    assert not other.open_by_itself()
    other.unlock(WORDS)
    assert other.root == vault.root


def test_a_stolen_data_folder_opens_nothing(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.open_store().dispose()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "the thief's"))
    with pytest.raises(StartFailed):
        Vault(paths).open_by_itself()


def test_the_key_file_may_lie_elsewhere_but_not_inside(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOD_KEY_FILE", str(paths.data / "key"))
    with pytest.raises(StartFailed, match="which it is to guard"):
        Vault(paths).open_by_itself()
    elsewhere = tmp_path / "volume" / "allod.key"
    monkeypatch.setenv("ALLOD_KEY_FILE", str(elsewhere))
    vault = Vault(paths)
    vault.open_by_itself()
    assert elsewhere.exists()
    assert Vault(paths).open_by_itself()


def test_a_key_file_that_is_there_is_used_and_never_written_over(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(64))
    before = secret.read_bytes()
    monkeypatch.setenv("ALLOD_KEY_FILE", str(secret))
    Vault(paths).open_by_itself()
    assert secret.read_bytes() == before
    assert Vault(paths).open_by_itself()


def test_a_short_key_file_is_refused(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hello")
    monkeypatch.setenv("ALLOD_KEY_FILE", str(secret))
    with pytest.raises(StartFailed, match="fewer than 16 bytes"):
        Vault(paths).open_by_itself()
    assert not paths.key_slots.exists()


def test_in_a_container_a_key_that_would_die_with_the_image_is_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"volume": 2, "layer": 1}
    monkeypatch.setattr(keysources, "is_container", lambda: True)
    monkeypatch.setattr(keysources, "_file_system", lambda path: "ext4")
    monkeypatch.setattr(
        keysources,
        "_device",
        lambda path: places["volume"] if path.is_relative_to(paths.data) else Path("/").stat().st_dev,
    )
    with pytest.raises(StartFailed) as refused:
        Vault(paths).open_by_itself()
    assert "ALLOD_KEY_FILE" in refused.value.fix
    assert "allod vault init" in refused.value.fix
    assert files(paths.data) == {}
    Vault(paths).create(WORDS)
    assert not Vault(paths).open_by_itself()


def test_a_systemd_credential_comes_first(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "allod").write_bytes(os.urandom(32))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    vault = Vault(paths)
    assert vault.open_by_itself()
    assert [slot.kind for slot in vault.slots()] == ["credential"]
    assert Vault(paths).open_by_itself()


KEYRING = """
import json, os, pathlib, time
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

class Keyring(KeyringBackend):
    priority = 9
    file = pathlib.Path(os.environ["TEST_KEYRING"])
    def _all(self): return json.loads(self.file.read_text()) if self.file.exists() else {}
    def get_password(self, service, username):
        if os.environ.get("TEST_KEYRING_LOCKED"): time.sleep(60)
        return self._all().get(service + username)
    def set_password(self, service, username, password):
        if os.environ.get("TEST_KEYRING_LOCKED"): time.sleep(60)
        self.file.write_text(json.dumps({**self._all(), service + username: password}))
    def delete_password(self, service, username):
        kept = self._all()
        if kept.pop(service + username, None) is None: raise PasswordDeleteError()
        self.file.write_text(json.dumps(kept))
"""


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A keyring that keeps secrets in a file: a locked one cannot be provoked where there is no desktop."""
    import keyring.core

    (tmp_path / "filekeyring.py").write_text(KEYRING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "filekeyring.Keyring")
    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "keyring.json"))
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)
    yield tmp_path / "keyring.json"
    sys.modules.pop("filekeyring", None)


def test_the_keyring_is_chosen_where_there_is_one(paths: Paths, keyring: Path) -> None:
    vault = Vault(paths)
    assert vault.open_by_itself()
    assert [slot.kind for slot in vault.slots()] == ["keyring"]
    assert Vault(paths).open_by_itself()
    vault.add("passphrase", WORDS)
    kept = keyring.read_text()
    vault.remove(vault.slots()[0].id)
    assert keyring.read_text() == kept  # a backup, or a copy of the folder, may still need it
    vault.add("keyring")
    assert keyring.read_text() == kept
    assert Vault(paths).open_by_itself()


def test_a_locked_keyring_is_not_waited_for(
    paths: Paths, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEYRING_LOCKED", "yes")
    began = time.monotonic()
    vault = Vault(paths)
    assert vault.open_by_itself()
    assert [slot.kind for slot in vault.slots()] == ["keyfile"]
    assert time.monotonic() - began < 10


def test_the_last_lock_stays(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    with pytest.raises(Conflict):
        vault.remove(vault.slots()[0].id)
    with pytest.raises(NotFound):
        vault.remove("slot_nobody")
    slot, _ = vault.add("passphrase", WORDS)
    vault.remove(slot.id)
    other = Vault(paths)
    other.open_by_itself()
    with pytest.raises(Conflict):
        other.add("keyfile")


def test_the_last_lock_that_opens_now_stays(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    passphrase, _ = vault.add("passphrase", WORDS)
    key_file(paths, vault).unlink()  # as on another machine
    with pytest.raises(Conflict, match="no other one opens it now"):
        vault.remove(passphrase.id)
    other = Vault(paths)
    other.open_by_itself()
    other.unlock(WORDS)


def test_an_open_store_still_asks_for_the_right_passphrase(paths: Paths) -> None:
    vault = Vault(paths)
    vault.create(WORDS)
    with pytest.raises(WrongPassphrase):
        vault.unlock("anything at all")
    with pytest.raises(TooManyTries):
        vault.unlock(WORDS)
    time.sleep(1.01)
    vault.unlock(WORDS)
    assert vault.is_open


def test_a_kill_between_the_two_files_undoes_no_removal(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    passphrase, _ = vault.add("passphrase", WORDS)
    before = keyslots.second(paths.key_slots).read_bytes()
    vault.remove(passphrase.id)
    keyslots.second(paths.key_slots).write_bytes(before)  # as if killed after the first of the two writes
    other = Vault(paths)
    assert other.open_by_itself()
    assert [slot.kind for slot in other.slots()] == ["keyfile"]
    assert b"passphrase" not in keyslots.second(paths.key_slots).read_bytes()


def test_a_removed_passphrase_opens_nothing(paths: Paths) -> None:
    vault = Vault(paths)
    vault.create(WORDS)
    vault.add("passphrase", "another one, longer")
    vault.remove(vault.slots()[0].id)
    other = Vault(paths)
    other.open_by_itself()
    with pytest.raises(WrongPassphrase):
        other.unlock(WORDS)


def test_a_damaged_file_is_mended_from_its_copy(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    whole = paths.key_slots.read_bytes()
    for damage in (b"", b"{}", whole[:200], whole.replace(b'"root": "', b'"root": "A', 1)):
        paths.key_slots.write_bytes(damage)
        other = Vault(paths)
        assert other.open_by_itself()
        assert other.root == vault.root
        assert keyslots.read(paths.key_slots)[0].slots == tuple(vault.slots())
        assert paths.key_slots.read_bytes() == keyslots.second(paths.key_slots).read_bytes()


def test_every_flipped_byte_is_found(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    whole = paths.key_slots.read_bytes()
    secret = key_file(paths, vault).read_text().strip()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        try:
            slots, seal = keyslots.parse(bytes(flipped))
        except Damaged:
            continue
        if slots == keyslots.parse(whole)[0] and seal == keyslots.parse(whole)[1]:
            continue  # a space between two words
        with pytest.raises((Damaged, crypto.WrongKey)):
            keyslots.check(slots, seal, slots.open(slots.slots[0], secret).root)


def test_a_foreign_lock_is_found(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    slots, seal = keyslots.read(paths.key_slots)
    forged, _ = slots.with_slot(crypto.new_key(), "passphrase", WORDS)
    with pytest.raises(Damaged):
        keyslots.check(forged, seal, vault.root)


def test_both_files_gone_is_no_first_start(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.open_store().dispose()
    paths.key_slots.unlink()
    keyslots.second(paths.key_slots).unlink()
    before = files(paths.data)
    with pytest.raises(StartFailed, match=r"keyslots\.json is not"):
        Vault(paths).open_by_itself()
    assert files(paths.data) == before


def test_a_missing_store_is_no_first_start(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.open_store().dispose()
    for file in paths.data.glob("allod.db*"):
        file.unlink()
    other = Vault(paths)
    other.open_by_itself()
    with pytest.raises(StartFailed, match="is missing or empty"):
        other.open_store()
    assert not paths.store.exists()
    paths.store.touch()
    with pytest.raises(StartFailed, match="is missing or empty"):
        other.open_store()
    assert paths.store.stat().st_size == 0


def test_a_store_of_another_folder_is_damaged_for_this_one(paths: Paths, tmp_path: Path) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    vault.open_store().dispose()
    other_paths = Paths(tmp_path / "other")
    other_paths.create()
    other = Vault(other_paths)
    other.open_by_itself()
    other.open_store().dispose()
    for file in other_paths.data.glob("allod.db*"):
        file.unlink()
    other_paths.store.write_bytes(paths.store.read_bytes())
    before = other_paths.store.read_bytes()
    with pytest.raises(StoreDamaged):
        other.open_store()
    assert other_paths.store.read_bytes() == before


def test_the_root_is_changed_under_all_locks(paths: Paths) -> None:
    vault = Vault(paths)
    vault.create(WORDS)
    _, code = vault.add("recovery")
    vault.add("keyfile")
    database = vault.open_store()
    with database.transaction(KERNEL) as connection:
        connection.exec_driver_sql("CREATE TABLE kernel__t (x)")
        connection.exec_driver_sql("INSERT INTO kernel__t VALUES (42)")
    old = vault.root
    steps: list[float] = []
    vault.change_root(database, steps.append)
    assert vault.root != old
    assert steps[-1] == 1.0
    database.dispose()
    for secret in ("", WORDS, code):
        other = Vault(paths)
        assert other.open_by_itself()  # by the key file
        locked = Vault(paths)
        locked._slots = other._slots
        if secret:
            locked.unlock(secret)
        else:
            locked = other
        reopened = locked.open_store()
        with reopened.transaction(KERNEL) as connection:
            assert connection.exec_driver_sql("SELECT x FROM kernel__t").scalar() == 42
        reopened.dispose()


def test_a_change_of_the_root_needs_room_and_can_be_tried_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    database = vault.open_store()
    before = paths.key_slots.read_bytes()
    usage = shutil.disk_usage(paths.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreFull):
        vault.change_root(database, lambda _: None)
    assert paths.key_slots.read_bytes() == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    vault.change_root(database, lambda _: None)
    database.dispose()
    last = Vault(paths)
    last.open_by_itself()
    last.open_store().dispose()


def test_while_a_change_of_the_root_is_open_no_lock_changes(paths: Paths) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    database = vault.open_store()

    def fail(*_: object) -> None:
        raise OSError(5, "the disk failed")

    database.rekey = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="the disk failed"):
        vault.change_root(database, lambda _: None)
    database.dispose()
    with pytest.raises(Conflict):
        vault.add("passphrase", WORDS)
    with pytest.raises(Conflict):
        vault.remove(vault.slots()[0].id)
    other = Vault(paths)
    other.open_by_itself()
    other.open_store().dispose()
    other.add("passphrase", WORDS)


@pytest.mark.parametrize("has_rekeyed", [False, True])
def test_a_change_of_the_root_that_broke_off_is_settled_at_the_next_start(
    paths: Paths, has_rekeyed: bool
) -> None:
    vault = Vault(paths)
    vault.open_by_itself()
    database = vault.open_store()
    fresh = crypto.new_key()
    vault._write(vault._known().with_next_root(fresh))  # as far as a killed server may have come
    if has_rekeyed:
        database.rekey(crypto.derive(fresh, "database"), lambda _: None)
    database.dispose()

    other = Vault(paths)
    assert other.open_by_itself()
    other.open_store().dispose()
    assert other.root == (fresh if has_rekeyed else vault.root)
    last = Vault(paths)
    assert last.open_by_itself()
    assert last.root == other.root
    assert not last._next_root


def test_only_one_try_at_a_time(paths: Paths) -> None:
    Vault(paths).create(WORDS)
    vault = Vault(paths)
    vault.open_by_itself()
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            vault.unlock("wrong wrong wrong")
        except (WrongPassphrase, TooManyTries) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=attempt) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["TooManyTries"] * 4 + ["WrongPassphrase"]
