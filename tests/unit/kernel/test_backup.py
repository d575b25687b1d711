"""Sealed backups: they hold all, at one moment, show nothing, and are refused when a byte is not what was written."""

from __future__ import annotations

import shutil
import struct
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from allod import __version__
from allod.kernel import backup, crypto
from allod.kernel.backup import open_backup, sealed
from allod.kernel.chunks import CHUNK_BYTES, sealed_chunks
from allod.kernel.paths import Paths
from allod.kernel.restore import restore
from allod.kernel.vault import Vault
from allod.sdk.errors import Conflict, Locked, NotFound, StoreDamaged, StoreFull
from tests.unit.kernel.data_folders import WORDS, files, kept, new_machine, rows, store, write

BLOB = f"blobs/{'ab' * 32}"
MARKERS = (b"a word of a row", b"a word of a setting", b"a-models-name", BLOB.encode())


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    return new_machine(monkeypatch, tmp_path)


def fill(paths: Paths) -> None:
    """Something of each kind that is kept."""
    with store(paths) as (_, database):
        write(database, "a word of a row", "another")
    paths.config.write_text("# a word of a setting\n[server]\nport = 8080\n")
    (paths.data / "models.json").write_text('["/home/ann/a-models-name.gguf"]')
    (paths.data / BLOB).parent.mkdir()
    (paths.data / BLOB).write_bytes(bytes(range(256)) * 9)


def back_up(paths: Paths, file: Path, secret: str = "") -> bytes:
    with store(paths, secret) as (vault, database):
        file.write_bytes(b"".join(sealed(vault, database, paths)))
    return file.read_bytes()


def split(data: bytes) -> tuple[bytes, list[bytes]]:
    """The head with its digest, and the chunks."""
    start = len(backup._MAGIC) + 4
    place = start + struct.unpack(">I", data[start - 4 : start])[0] + 32
    head, chunks = data[:place], []
    while place < len(data):
        end = place + 5 + struct.unpack(">I", data[place : place + 4])[0]
        chunks.append(data[place:end])
        place = end
    return head, chunks


def test_all_that_is_kept_comes_back(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Vault(paths).create(WORDS)
    vault = Vault(paths)
    vault.open_by_itself()
    vault.unlock(WORDS)
    _, code = vault.add("recovery")
    vault.open_store().dispose()
    with store(paths, WORDS) as (_, database):
        write(database, "first", "second")
    paths.config.write_text("[server]\nport = 8080\n")
    (paths.data / BLOB).parent.mkdir()
    (paths.data / BLOB).write_bytes(b"blob")
    (paths.data / "blobs/.half-written").write_bytes(b"no blob")
    back_up(paths, tmp_path / "b", WORDS)

    said = open_backup(tmp_path / "b")
    assert (said.version, said.folder_id) == (__version__, vault.folder_id)
    assert said.kinds == ("passphrase", "recovery")
    assert said.opens_elsewhere
    for number, secret in enumerate((WORDS, code, code.lower())):
        other = new_machine(monkeypatch, tmp_path / str(number))
        done = restore(tmp_path / "b", other, secret)
        assert (done.created_at, done.version, done.moved_to) == (said.created_at, __version__, None)
        assert kept(other, secret) == ["first", "second"]
        assert set(files(other.data)) == {
            "allod.db", "keyslots.json", "keyslots.copy.json", "config.toml", BLOB,
        }  # fmt: skip
        assert (other.data / BLOB).read_bytes() == b"blob"
        assert other.config.read_text() == "[server]\nport = 8080\n"
        for file in ("allod.db", "keyslots.json", "config.toml", BLOB):
            assert (other.data / file).stat().st_mode & 0o777 == 0o600


def test_nothing_of_it_can_be_read_without_a_key(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(paths)
    with store(paths) as (vault, _):
        vault.add("passphrase", WORDS)
    data = back_up(paths, tmp_path / "b")
    assert not [marker for marker in MARKERS if marker in data]
    assert WORDS.encode() not in data

    other = new_machine(monkeypatch, tmp_path / "other")  # they were in it, though
    restore(tmp_path / "b", other, WORDS)
    found = {marker for marker in MARKERS if marker in b"".join(files(other.data).values())}
    assert found == {b"a word of a setting", b"a-models-name"}
    assert (other.data / BLOB).is_file()
    assert kept(other, WORDS) == ["a word of a row", "another"]


def test_two_backups_share_no_key(paths: Paths, tmp_path: Path) -> None:
    fill(paths)
    one, two = (split(back_up(paths, tmp_path / name)) for name in "ab")
    assert one[0] != two[0]
    mixed = tmp_path / "mixed"
    mixed.write_bytes(one[0] + b"".join(two[1]))
    with pytest.raises(StoreDamaged):
        restore(mixed, paths)


def test_it_is_of_one_moment_while_others_write(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, stop = [0], threading.Event()
    changed = threading.Condition()

    def reaches(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: written[0] >= count, 30)

    with store(paths) as (vault, database):
        vault.add("passphrase", WORDS)
        write(database, *(f"{number} " + "x" * 4000 for number in range(500)))

        def writing() -> None:
            while not stop.is_set():
                write(database, f"odd {written[0]}", f"even {written[0]}")
                with changed:
                    written[0] += 1
                    changed.notify_all()

        writer = threading.Thread(target=writing)
        writer.start()
        try:
            reaches(5)
            with (tmp_path / "b").open("wb") as file:
                for piece in sealed(vault, database, paths):
                    file.write(piece)
                    reaches(written[0] + 2)
        finally:
            stop.set()
            writer.join()
        assert len(rows(database)) == 500 + 2 * written[0]
    other = new_machine(monkeypatch, tmp_path / "other")
    restore(tmp_path / "b", other, WORDS)
    found = kept(other, WORDS)[500:]
    assert 10 <= len(found) < 2 * written[0]
    assert found == [f"{half} {number}" for number in range(len(found) // 2) for half in ("odd", "even")]


# what is not a whole backup


def tampered(data: bytes) -> dict[str, bytes]:
    head, (first, second, third, *rest) = split(data)
    chunks = [first, second, third, *rest]
    unfinal = chunks[-1][:4] + b"\x00" + chunks[-1][5:]
    return {
        "without its end": head + b"".join(chunks[:-1]),
        "without its end, the one before called the last": (
            head + b"".join(chunks[:-2]) + chunks[-2][:4] + b"\x01" + chunks[-2][5:]
        ),
        "without a chunk": head + first + third + b"".join(rest),
        "two chunks exchanged": head + second + first + third + b"".join(rest),
        "a chunk twice": head + first + first + b"".join(chunks[1:]),
        "its end not the last": head + b"".join(chunks[:-1]) + unfinal,
        "its end twice": data + chunks[-1],
        "a byte more": data + b"\x00",
        "another backup behind it": data + data,
        "no chunk at all": head,
        "the head alone, cut": head[:-1],
        "a chunk longer than any": head + struct.pack(">IB", 1 << 31, 0) + first[5:],
        "a chunk shorter than any": head + struct.pack(">IB", 3, 0) + first[5:],
    }  # fmt: skip


def test_what_was_put_together_otherwise_is_refused(paths: Paths, tmp_path: Path) -> None:
    fill(paths)
    large = crypto.new_key() * (3 << 15)
    (paths.data / "blobs/large").write_bytes(large)
    plain_bytes = sum(len(chunk) - 21 for chunk in split(back_up(paths, tmp_path / "b"))[1])
    # longer, so that nothing but zeros, which a tar stream could do without, is left for the last chunk
    (paths.data / "blobs/large").write_bytes(large + bytes((512 - plain_bytes) % CHUNK_BYTES))
    data = back_up(paths, tmp_path / "b")
    assert len(split(data)[1][-1]) == 21 + 512
    before = files(paths.data)
    for how, wrong in tampered(data).items():
        (tmp_path / "b").write_bytes(wrong)
        with pytest.raises(StoreDamaged, match="Nothing was changed"):
            restore(tmp_path / "b", paths)
        assert files(paths.data) == before, how
    (tmp_path / "b").write_bytes(data)
    assert restore(tmp_path / "b", paths).moved_to


@pytest.fixture
def small(paths: Paths, tmp_path: Path) -> Path:
    """A backup in one chunk, which this machine's own key opens."""
    fill(paths)
    back_up(paths, tmp_path / "b")
    return tmp_path / "b"


def refused(file: Path, paths: Paths, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(StoreDamaged, match="Nothing was changed"):
        restore(file, paths)


def test_every_flipped_byte_is_found(small: Path, paths: Paths) -> None:
    data, before = small.read_bytes(), files(paths.data)
    head = len(split(data)[0])
    for place in (*range(head + 24), *range(head + 24, len(data), 251), len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        refused(small, paths, bytes(flipped))
    assert files(paths.data) == before


def test_every_cut_is_found(small: Path, paths: Paths) -> None:
    data, before = small.read_bytes(), files(paths.data)
    head = len(split(data)[0])
    for length in (*range(20), *range(20, head, 97), *range(head, len(data), 311), len(data) - 1):
        refused(small, paths, data[:length])
        with pytest.raises(StoreDamaged):
            open_backup(small)
    assert files(paths.data) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"not a backup at all",
        lambda data: bytes(8192),
        lambda data: b"SQLite format 3\x00" + bytes(8176),
        lambda data: data.replace(b'"version": 1', b'"version": 2'),
        lambda data: data[:17] + b"\xff" * 4 + data[21:],
    ],
)
def test_other_files_are_refused(small: Path, paths: Paths, change: Callable[[bytes], bytes]) -> None:
    before = files(paths.data)
    refused(small, paths, change(small.read_bytes()))
    with pytest.raises(StoreDamaged):
        open_backup(small)
    assert files(paths.data) == before


def test_a_file_that_is_not_there_is_told(paths: Paths, tmp_path: Path) -> None:
    for file in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFound):
            open_backup(file)
        with pytest.raises(NotFound):
            restore(file, paths)


def hostile(vault: Vault, file: Path, *members: tuple[str, bytes], behind: bytes = b"") -> None:
    """A backup by one who has the key and no good intent: any members, and something behind their end."""
    places = []
    for number, (name, content) in enumerate(members):
        place = file.with_name(f"member-{number}")
        place.write_bytes(content)
        places.append((name, place))
    whole = split(file.read_bytes())[0]
    with file.open("rb") as source:
        head = backup.read_head(source)
    assert head is not None
    plain = b"".join(backup._tar(places)) + behind
    file.write_bytes(
        whole + b"".join(sealed_chunks(backup._key(vault.root, head.salt), head.digest, [plain]))
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "/tmp/outside", "blobs/../../outside", "blobs/..", "blobs/.hidden", "blobs", "blobs/a/../b",
        "keyslots.json", "allod.db-wal", "config.toml/x", "blobs/" + "a" * 200, "blobs/a/b/c/d", "models.json\n",
    ],
)  # fmt: skip
def test_only_what_a_backup_may_hold_is_written(small: Path, paths: Paths, name: str) -> None:
    with store(paths) as (vault, _):
        hostile(vault, small, (name, b"x"))
    before = files(paths.data.parent)
    with pytest.raises(StoreDamaged, match="what no backup holds"):
        restore(small, paths)
    assert files(paths.data.parent) == before


def test_a_backup_without_a_store_or_with_two_is_refused(small: Path, paths: Paths) -> None:
    with store(paths) as (vault, _):
        for members, reason in (
            ([("config.toml", b"")], "holds no store"),
            ([("allod.db", b"")], "holds no store"),
            ([("allod.db", bytes(4096))], "does not open with its key"),
            ([("config.toml", b""), ("config.toml", b"")], "what no backup holds"),
        ):
            hostile(vault, small, *members)
            with pytest.raises(StoreDamaged, match=reason):
                restore(small, paths)


def test_it_is_read_to_its_very_end(small: Path, paths: Paths) -> None:
    with store(paths) as (vault, database):
        database.copy_to(paths.data.parent / "copy")
        content = (paths.data.parent / "copy").read_bytes()
        hostile(vault, small, ("allod.db", content), behind=bytes(3 * CHUNK_BYTES))
    head, chunks = split(small.read_bytes())
    before = files(paths.data)
    refused(small, paths, head + b"".join(chunks[:-1]))
    assert files(paths.data) == before
    small.write_bytes(head + b"".join(chunks))
    assert restore(small, paths).moved_to


# while it is made


def test_without_room_none_is_begun(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(paths)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 20))
    with store(paths) as (vault, database), pytest.raises(StoreFull):
        next(sealed(vault, database, paths))
    assert not list(paths.data.glob("backup.part*"))


def test_a_locked_store_gives_none(paths: Paths) -> None:
    Vault(paths).create(WORDS)
    with store(paths, WORDS) as (_, database):
        locked = Vault(paths)
        locked.open_by_itself()
        with pytest.raises(Locked):
            next(sealed(locked, database, paths))


def test_the_copy_is_gone_when_nobody_reads_on(paths: Paths) -> None:
    fill(paths)
    with store(paths) as (vault, database):
        pieces = sealed(vault, database, paths)
        next(pieces)
        (copying,) = paths.data.glob("backup.part*")
        assert copying.stat().st_mode & 0o777 == 0o700
        pieces.close()
        assert not list(paths.data.glob("backup.part*"))


def test_a_file_that_shrinks_meanwhile_breaks_it_off(paths: Paths) -> None:
    fill(paths)
    paths.config.write_text("# a long one\n" * 300_000)
    with store(paths) as (vault, database):
        pieces = sealed(vault, database, paths)
        next(pieces)
        next(pieces)
        paths.config.write_text("")
        with pytest.raises(Conflict, match=r"config\.toml was changed"):
            list(pieces)
    assert not list(paths.data.glob("backup.part*"))


@pytest.mark.parametrize("has_rekeyed", [False, True])
def test_it_opens_when_the_root_was_about_to_change(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_rekeyed: bool
) -> None:
    with store(paths) as (vault, database):
        write(database, "kept")
        vault.add("passphrase", WORDS)
        fresh = crypto.new_key()
        vault._write(vault._known().with_next_root(fresh))  # as far as a change may just have come
        if has_rekeyed:
            database.rekey(crypto.derive(fresh, "database"), lambda _: None)
        (tmp_path / "b").write_bytes(b"".join(sealed(vault, database, paths)))
    other = new_machine(monkeypatch, tmp_path / "other")
    restore(tmp_path / "b", other, WORDS)
    assert kept(other, WORDS) == ["kept"]


def test_a_root_that_changes_while_it_is_copied_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(paths) as (vault, database):
        write(database, "kept")
        copy_to = database.copy_to

        def copy_and_change(file: Path) -> None:
            copy_to(file)
            vault.change_root(database, lambda _: None)

        monkeypatch.setattr(database, "copy_to", copy_and_change)
        with pytest.raises(Conflict, match="root key is being changed"):
            next(sealed(vault, database, paths))
        monkeypatch.setattr(database, "copy_to", copy_to)
        assert len(b"".join(sealed(vault, database, paths))) > 4096


def test_a_damaged_keyslots_file_is_taken_from_its_copy(paths: Paths, tmp_path: Path) -> None:
    fill(paths)
    with store(paths) as (vault, database):
        paths.key_slots.write_bytes(b"{}")
        (tmp_path / "b").write_bytes(b"".join(sealed(vault, database, paths)))
    assert open_backup(tmp_path / "b").kinds == ("keyfile",)
