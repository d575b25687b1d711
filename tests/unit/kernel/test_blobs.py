"""Sealed files: they come back whole under their key or not at all, and leave nothing half behind that is named."""

from __future__ import annotations

import asyncio
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.kernel.blobs import OwnBlobs
from allod.kernel.chunks import CHUNK_BYTES
from allod.kernel.crypto import new_key
from allod.kernel.paths import Paths
from allod.kernel.restore import restore
from allod.sdk.errors import NotFound, StoreDamaged, StoreFull, StoreReadOnly
from tests.unit.kernel.data_folders import ends, files, new_machine, store, write

KEY = new_key()
MARK = b"ALLODCANARY-in-a-blob"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "blobs"


@pytest.fixture
def blobs(folder: Path) -> OwnBlobs:
    folder.parent.mkdir()
    return OwnBlobs(folder, "notes")


def file_of(folder: Path, id: str, owner: str = "notes") -> Path:
    return folder / owner / id[:2] / id


SIZES = (0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7)


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_put_comes_back(blobs: OwnBlobs, size: int) -> None:
    data = new_key() * (size // 32) + bytes(size % 32)
    id = await blobs.put(data, KEY)
    assert await blobs.get(id, KEY) == data
    assert await blobs.all() == [id]
    await blobs.delete([id])
    assert await blobs.all() == []
    with pytest.raises(NotFound):
        await blobs.get(id, KEY)


async def test_nothing_is_learnt_from_a_file(blobs: OwnBlobs, folder: Path) -> None:
    ids = [await blobs.put(MARK * 100, KEY) for _ in range(3)]
    contents = [file_of(folder, id).read_bytes() for id in ids]
    assert len({content[5:] for content in contents}) == 3  # behind the frame's head, equal data differ
    assert not any(MARK in content for content in contents)
    (folder / "control").write_bytes(MARK)
    assert [name for name, content in files(folder).items() if MARK in content] == ["control"]


async def test_files_are_for_this_user_only(blobs: OwnBlobs, folder: Path) -> None:
    id = await blobs.put(b"x", KEY)
    assert stat.S_IMODE(file_of(folder, id).stat().st_mode) == 0o600
    for made in (folder, folder / "notes", folder / "notes" / id[:2]):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


async def damaged(blobs: OwnBlobs, id: str, key: bytes = KEY) -> None:
    with pytest.raises(StoreDamaged) as caught:
        await blobs.get(id, key)
    assert MARK.decode() not in caught.value.message


async def test_another_key_opens_nothing(blobs: OwnBlobs) -> None:
    id = await blobs.put(MARK, KEY)
    await damaged(blobs, id, new_key())
    for wrong in (b"", KEY[:31], KEY + b"x"):
        with pytest.raises(ValueError, match="32 bytes"):
            await blobs.get(id, wrong)
        with pytest.raises(ValueError, match="32 bytes"):
            await blobs.put(MARK, wrong)


async def test_every_cut_and_every_flipped_byte_is_found(blobs: OwnBlobs, folder: Path) -> None:
    id = await blobs.put(MARK, KEY)
    file = file_of(folder, id)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        await damaged(blobs, id)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        await damaged(blobs, id)
    file.write_bytes(whole + b"x")
    await damaged(blobs, id)
    file.write_bytes(whole)
    assert await blobs.get(id, KEY) == MARK


async def test_chunks_keep_their_place_and_number(blobs: OwnBlobs, folder: Path) -> None:
    id = await blobs.put(bytes(2 * CHUNK_BYTES) + MARK, KEY)
    file = file_of(folder, id)
    whole, step = file.read_bytes(), CHUNK_BYTES + 21
    first, second, last = whole[:step], whole[step : 2 * step], whole[2 * step :]
    for wrong in (
        first + second,
        first + last,
        second + first + last,
        first + first + last,
        last,
        first + second + last + last,
        first + second[:-1] + last,
        first[:4] + b"\x01" + first[5:],  # taken for the end
    ):
        file.write_bytes(wrong)
        await damaged(blobs, id)


async def test_no_file_takes_the_place_of_another(blobs: OwnBlobs, folder: Path) -> None:
    one, other = await blobs.put(MARK, KEY), await blobs.put(MARK, KEY)
    shutil.copyfile(file_of(folder, one), file_of(folder, other))
    await damaged(blobs, other)
    neighbour = OwnBlobs(folder, "other")
    await neighbour.put(b"x", KEY)
    file_of(folder, one, "other").parent.mkdir(exist_ok=True)
    shutil.copyfile(file_of(folder, one), file_of(folder, one, "other"))
    await damaged(neighbour, one)


async def test_one_sees_its_own_files_only(blobs: OwnBlobs, folder: Path) -> None:
    id = await blobs.put(MARK, KEY)
    neighbour = OwnBlobs(folder, "other")
    assert await neighbour.all() == []
    await neighbour.delete([id])
    with pytest.raises(NotFound):
        await neighbour.get(id, KEY)
    assert await blobs.get(id, KEY) == MARK


@pytest.mark.parametrize(
    "id", ["", "..", "../../allod.db", "a" * 31, "A" * 32, "a" * 33, f"{'a' * 32}\n", f"../{'a' * 32}"]
)
async def test_an_id_leads_nowhere_else(blobs: OwnBlobs, id: str) -> None:
    for refused in (blobs.get(id, KEY), blobs.delete([id])):
        with pytest.raises(NotFound):
            await refused


async def test_what_is_no_blob_is_left_alone(blobs: OwnBlobs, folder: Path) -> None:
    id = await blobs.put(b"x", KEY)
    (file_of(folder, id).parent / "a note of mine.txt").write_text("mine")
    assert await blobs.all() == [id]


async def test_many_at_once(blobs: OwnBlobs) -> None:
    datas = [bytes([number]) * 100_000 for number in range(40)]
    ids = await asyncio.gather(*(blobs.put(data, KEY) for data in datas))
    assert await asyncio.gather(*(blobs.get(id, KEY) for id in ids)) == datas
    await blobs.delete(ids[:20])
    assert sorted(await blobs.all()) == sorted(ids[20:])


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may have more than 2 MiB: what a full disk does to a file of 5."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
async def test_a_file_that_the_disk_does_not_take_leaves_nothing(blobs: OwnBlobs, folder: Path) -> None:
    with pytest.raises((StoreReadOnly, StoreFull)):
        await blobs.put(bytes(5 << 20), KEY)
    assert files(folder) == {}


def test_a_kill_at_any_moment_leaves_at_most_a_file_that_nobody_names(tmp_path: Path) -> None:
    killed = 0
    for moment in range(1, 30):
        folder = tmp_path / str(moment)
        folder.mkdir()
        blobs = OwnBlobs(folder / "blobs", "notes")

        def put(blobs: OwnBlobs = blobs) -> None:
            blobs._put(MARK, KEY)

        if ends(put, killed_at=moment, below=folder):
            break
        killed += 1
        assert len(asyncio.run(blobs.all())) == len(files(folder)) <= 1
        asyncio.run(blobs.delete(asyncio.run(blobs.all())))
        assert files(folder) == {}
        id = asyncio.run(blobs.put(MARK, KEY))
        assert asyncio.run(blobs.get(id, KEY)) == MARK
    assert killed > 4


async def test_a_backup_brings_them_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from allod.kernel.backup import sealed

    paths = new_machine(monkeypatch, tmp_path)
    blobs = OwnBlobs(paths.blobs, "notes_of_mine")
    id = await blobs.put(MARK, KEY)
    with store(paths) as (vault, database):
        write(database, "a row")
        (tmp_path / "backup").write_bytes(b"".join(sealed(vault, database, paths)))
    await blobs.delete([id])
    restore(tmp_path / "backup", paths)
    assert await OwnBlobs(Paths(paths.data).blobs, "notes_of_mine").get(id, KEY) == MARK
