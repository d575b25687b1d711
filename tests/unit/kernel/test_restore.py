"""The way back: who may open what, and that a kill at any moment loses neither the old state nor the new one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from allod.kernel import keyslots
from allod.kernel.authorizer import KERNEL
from allod.kernel.backup import sealed
from allod.kernel.migrations import Migrator
from allod.kernel.paths import Paths
from allod.kernel.restore import SecretNeeded, restore, settle
from allod.kernel.schema import MIGRATIONS
from allod.kernel.sessions import Sessions
from allod.kernel.vault import Vault
from allod.sdk.errors import Conflict, StartFailed, StoreDamaged, StoreFull, WrongPassphrase
from tests.unit.kernel.data_folders import WORDS, ends, files, kept, new_machine, rows, store, write

OLD, NEW = ["what was here before"], ["what was in the backup"]
BLOB = "blobs/ab/abcd"
usage = namedtuple("usage", "total used free")
mount = namedtuple("mount", "mountpoint")


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    return new_machine(monkeypatch, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "b"


def fill(paths: Paths, texts: list[str], setting: str) -> None:
    with store(paths) as (_, database):
        write(database, *texts)
    paths.config.write_text(f"# {setting}\n")
    (paths.data / BLOB).parent.mkdir(parents=True, exist_ok=True)
    (paths.data / BLOB).write_text(setting)


def back_up(paths: Paths, file: Path) -> None:
    with store(paths) as (vault, database):
        file.write_bytes(b"".join(sealed(vault, database, paths)))


def old_over_new(paths: Paths, file: Path) -> None:
    """A backup of NEW, and then OLD in its place, in a store of another key: both open by keys of this machine."""
    fill(paths, NEW, "new")
    (paths.data / "models.json").write_text("[]")
    back_up(paths, file)
    for each in paths.data.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    paths.create()
    fill(paths, OLD, "old")


def test_what_was_here_stays_beside_and_both_open(
    paths: Paths, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(paths) as (vault, _):
        vault.add("passphrase", WORDS)
    fill(paths, NEW, "new")
    back_up(paths, file)
    other = new_machine(monkeypatch, tmp_path / "other")
    fill(other, OLD, "old")
    (other.data / "models.json").write_text('["mine"]')
    (other.models / "a.gguf").write_bytes(b"model")
    before = files(other.data)

    done = restore(file, other, WORDS)
    assert kept(other, WORDS) == NEW
    assert (other.config.read_text(), (other.data / BLOB).read_text()) == ("# new\n", "new")
    assert not (other.data / "models.json").exists()  # the backup holds none
    assert (other.models / "a.gguf").read_bytes() == b"model"  # models are no part of a backup
    assert done.moved_to is not None
    assert done.moved_to.parent == other.data
    assert done.moved_to.stat().st_mode & 0o777 == 0o700
    del before["models/a.gguf"]
    assert files(done.moved_to) == before
    assert kept(Paths(done.moved_to)) == OLD


async def test_sessions_do_not_come_back(paths: Paths, file: Path) -> None:
    with store(paths) as (_, database):
        await asyncio.to_thread(Migrator(database, paths.backups).bring_up, KERNEL, MIGRATIONS)
        sessions = Sessions()
        await sessions.attach(database)
        _, *halves = await sessions.open("a browser")
        assert sessions.find(*halves) is not None
    back_up(paths, file)
    restore(file, paths)
    with store(paths) as (_, database):
        sessions = Sessions()
        await sessions.attach(database)
        assert (sessions.all(), sessions.find(*halves)) == ([], None)


def test_two_restores_in_one_second_keep_both(paths: Paths, file: Path) -> None:
    old_over_new(paths, file)
    moved = [restore(file, paths).moved_to for _ in range(3)]
    assert None not in moved
    assert len(set(moved)) == 3
    assert [kept(Paths(folder)) for folder in moved if folder] == [OLD, NEW, NEW]


def test_a_write_ahead_log_moves_with_its_store(paths: Paths, file: Path) -> None:
    old_over_new(paths, file)

    def write_and_die() -> None:
        vault = Vault(paths)
        vault.open_by_itself()
        database = vault.open_store()
        write(database, "in the log only")
        os._exit(0)

    assert ends(write_and_die)
    assert (paths.data / "allod.db-wal").stat().st_size > 0
    moved_to = restore(file, paths).moved_to
    assert moved_to is not None
    assert kept(paths) == NEW
    assert kept(Paths(moved_to)) == [*OLD, "in the log only"]


# who may open it


def test_without_a_key_of_this_machine_a_person_is_asked(
    paths: Paths, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(paths) as (vault, _):
        vault.add("passphrase", WORDS)
        _, code = vault.add("recovery")
    fill(paths, NEW, "new")
    back_up(paths, file)
    other = new_machine(monkeypatch, tmp_path / "other")
    before = files(other.data)
    with pytest.raises(SecretNeeded) as asked:
        restore(file, other)
    assert asked.value.kinds == ("passphrase", "recovery")
    for wrong in ("correct horse batterz", code[:-1] + ("0" if code[-1] != "0" else "1"), ""):
        with pytest.raises(WrongPassphrase):
            restore(file, other, wrong)
    assert files(other.data) == before
    restore(file, other, code.lower())
    assert kept(other, WORDS) == NEW


def test_a_backup_that_only_its_machine_opens_says_so_elsewhere(
    paths: Paths, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(paths, NEW, "new")
    back_up(paths, file)
    other = new_machine(monkeypatch, tmp_path / "other")
    for secret in (None, WORDS):
        with pytest.raises(StartFailed, match="None of this data folder's keys is here"):
            restore(file, other, secret)
    assert files(other.data) == {}
    monkeypatch.setenv(
        "XDG_CONFIG_HOME", str(paths.data.parent / "config")
    )  # with the key file brought along
    restore(file, other)
    assert kept(other) == NEW


def test_a_lock_that_was_slipped_in_is_found(
    paths: Paths, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who has no key can change the head and its checksum, but not what the root key has sealed."""
    import hashlib
    import json

    with store(paths) as (vault, _):
        vault.add("passphrase", WORDS)
        vault.add("passphrase", "another one, longer")
    fill(paths, NEW, "new")
    back_up(paths, file)
    data = file.read_bytes()
    length = int.from_bytes(data[13:17], "big")
    said = json.loads(data[17 : 17 + length])
    other = new_machine(monkeypatch, tmp_path / "other")

    def forge(reason: str, error: type[Exception]) -> None:
        head = json.dumps(said).encode()
        head = data[:13] + len(head).to_bytes(4, "big") + head
        file.write_bytes(head + hashlib.sha256(head).digest() + data[17 + length + 32 :])
        with pytest.raises(error, match=reason):
            restore(file, other, WORDS)
        assert files(other.data) == {}

    slot = said["slots"]["slots"].pop()
    forge("damaged: it was changed", StartFailed)
    said["slots"]["slots"].append(slot)
    said["created_at"] += 1
    forge("not what was written", StoreDamaged)


def test_without_room_nothing_is_begun(paths: Paths, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_over_new(paths, file)
    before = files(paths.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(StoreFull):
        restore(file, paths)
    assert files(paths.data) == before


def test_a_disk_that_fills_up_changes_nothing(
    paths: Paths, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    old_over_new(paths, file)
    before = files(paths.data)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="Nothing was changed"):
        restore(file, paths)
    assert files(paths.data) == before


def test_what_cannot_be_moved_is_said_before_anything_is(
    paths: Paths, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_over_new(paths, file)
    before = files(paths.data)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [mount("/"), mount(str(paths.config))])
    with pytest.raises(Conflict, match=r"config\.toml is mounted on its own"):
        restore(file, paths)
    assert files(paths.data) == before


# a bare copy of the store


def bare_copy(paths: Paths) -> Path:
    """As it is made before tables are changed."""
    with store(paths) as (_, database):
        paths.backups.mkdir(exist_ok=True)
        copy = paths.backups / "before-kernel-2.db"
        database.copy_to(copy)
        write(database, "later")
    return copy


def test_a_copy_from_before_a_migration_comes_back(paths: Paths) -> None:
    fill(paths, OLD, "mine")
    copy = bare_copy(paths)
    paths.key_slots.write_bytes(b"{}")  # its copy is enough
    done = restore(copy, paths)
    assert kept(paths) == OLD
    assert (done.version, done.created_at) == ("", copy.stat().st_mtime)
    assert paths.config.read_text() == "# mine\n"
    assert (paths.data / BLOB).read_text() == "mine"
    assert copy.exists()
    assert done.moved_to is not None
    assert set(files(done.moved_to)) == {"allod.db", "keyslots.json", "keyslots.copy.json"}
    assert kept(Paths(done.moved_to)) == [*OLD, "later"]


def test_a_copy_needs_the_passphrase_where_the_store_does(paths: Paths) -> None:
    Vault(paths).create(WORDS)
    with store(paths, WORDS) as (_, database):
        write(database, *OLD)
        database.copy_to(paths.data / "copy.db")
    with pytest.raises(SecretNeeded) as asked:
        restore(paths.data / "copy.db", paths)
    assert asked.value.kinds == ("passphrase",)
    restore(paths.data / "copy.db", paths, WORDS)
    assert kept(paths, WORDS) == OLD


def test_every_cut_of_a_copy_is_found(paths: Paths) -> None:
    fill(paths, [f"{number} " + "x" * 3000 for number in range(20)], "mine")
    copy = bare_copy(paths)
    data = copy.read_bytes()
    for length in (*range(0, len(data), 4096), 1, 511, 5000, len(data) - 1):
        copy.write_bytes(data[:length])
        before = files(paths.data)
        with pytest.raises(StoreDamaged, match="Nothing was changed"):
            restore(copy, paths)
        assert files(paths.data) == before
    for place in range(100, len(data), 4096):
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(StoreDamaged, match="Nothing was changed"):
            restore(copy, paths)


def test_a_copy_of_another_folder_is_refused(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(paths, OLD, "old")
    copy = bare_copy(paths)
    other = new_machine(monkeypatch, tmp_path / "other")
    with pytest.raises(StoreDamaged, match="has no key that could open"):
        restore(copy, other)
    assert files(tmp_path / "other") == {}  # neither a store nor a key was made
    fill(other, NEW, "new")
    with pytest.raises(StoreDamaged, match="does not open with its key"):
        restore(copy, other)
    assert kept(other) == NEW


# killed


def state(paths: Paths) -> list[str]:
    """What the store holds after a start, with all else as it must be then."""
    assert not list(paths.data.glob("restore.*"))
    found = kept(paths)
    setting = "old" if found == OLD else "new"
    assert paths.config.read_text() == f"# {setting}\n"
    assert (paths.data / BLOB).read_text() == setting
    assert (paths.data / "models.json").exists() == (found == NEW)
    aside = list(paths.data.glob("before-restore-*"))
    if found == OLD:
        assert aside == []
    else:
        assert [kept(Paths(folder)) for folder in aside] == [OLD]
        assert (aside[0] / BLOB).read_text() == "old"
        assert (aside[0] / "config.toml").read_text() == "# old\n"
    assert keyslots.second(paths.key_slots).read_bytes() == paths.key_slots.read_bytes()
    return found


@pytest.fixture
def start(paths: Paths, file: Path, tmp_path: Path) -> Callable[[], None]:
    """Puts the data folder back to OLD."""
    old_over_new(paths, file)
    shutil.copytree(paths.data, tmp_path / "start")

    def begin() -> None:
        shutil.rmtree(paths.data)
        shutil.copytree(tmp_path / "start", paths.data)

    return begin


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new_one(
    paths: Paths, file: Path, start: Callable[[], None]
) -> None:
    found, moment = [], 0
    while True:
        moment += 1
        start()
        is_through = ends(lambda: restore(file, paths), killed_at=moment, below=paths.data)
        settle(paths)
        found.append(state(paths)[0])
        if is_through:
            break
    assert moment > 25
    assert found == sorted(found, key=(*OLD, *NEW).index)  # once it counts, it counts
    assert {*found} == {*OLD, *NEW}


def test_a_start_that_is_killed_over_and_over_comes_through(
    paths: Paths, file: Path, start: Callable[[], None]
) -> None:
    moment, is_through, most = 0, False, 0
    while not is_through:
        moment += 1
        start()
        is_through = ends(lambda: restore(file, paths), killed_at=moment, below=paths.data)
        kills = 1
        while not ends(lambda: settle(paths), killed_at=kills, below=paths.data):
            kills += 1
        most = max(most, kills)
        state(paths)
    assert most > 5


def test_an_error_at_any_rename_leaves_it_to_be_brought_to_its_end(
    paths: Paths, file: Path, start: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, outcomes = os.replace, list[type[Exception]]()
    while len(outcomes) < 100:
        start()
        left = [len(outcomes)]

        def failing(source: Path, target: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise PermissionError(13, "Permission denied", str(source))
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            try:
                restore(file, paths)
                break
            except (StartFailed, PermissionError) as error:
                outcomes.append(type(error))
        settle(paths)
        state(paths)
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes, key=[PermissionError, StartFailed].index)
    settle(paths)
    assert state(paths) == NEW


def test_a_restore_first_brings_an_earlier_one_to_its_end(
    paths: Paths, file: Path, start: Callable[[], None], tmp_path: Path
) -> None:
    start()
    moment = 1
    while not (paths.data / "restore.moving").exists():
        start()
        assert not ends(lambda: restore(file, paths), killed_at=moment, below=paths.data)
        moment += 1
    moved_to = restore(file, paths).moved_to
    assert moved_to is not None
    assert kept(paths) == NEW
    assert sorted(kept(Paths(folder)) for folder in paths.data.glob("before-restore-*")) == sorted([OLD, NEW])
    assert kept(Paths(moved_to)) == NEW


def test_what_killed_backups_left_is_cleared_away(paths: Paths) -> None:
    fill(paths, OLD, "old")

    def begin_and_die() -> None:
        with store(paths) as (vault, database):
            pieces = sealed(vault, database, paths)
            next(pieces)
            os._exit(0)

    assert ends(begin_and_die)
    assert list(paths.data.glob("backup.part-*/allod.db"))
    assert settle(paths) is None
    assert not list(paths.data.glob("backup.part-*"))
    with store(paths) as (_, database):
        assert rows(database) == OLD
