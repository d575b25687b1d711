"""What was deleted is gone from the file: every page of it is decrypted here and looked through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from allod.extensions.terminal.settings import TerminalSettings
from tests.unit.terminal.house import House

_PAGE, _TAIL, _IV, _SALT = (
    4096,
    80,
    16,
    16,
)  # SQLCipher 4: AES-256-CBC; each page ends with its IV and an HMAC-SHA512
_WAL_HEAD, _FRAME_HEAD = 32, 24  # sqlite.org/fileformat2.html, "WAL File Format"
MARK = "canary-7f3a"


def pages(house: House) -> Iterator[bytes]:
    """Every page of the database, decrypted."""
    data = house.file.read_bytes()
    for start in range(0, len(data), _PAGE):
        yield plain(data[start : start + _PAGE], house.key, is_first=start == 0)


def logged_pages(house: House) -> Iterator[bytes]:
    """Every page in the write-ahead log, decrypted."""
    log = house.file.with_name("allod.db-wal")
    data = log.read_bytes() if log.exists() else b""
    for start in range(_WAL_HEAD, len(data), _FRAME_HEAD + _PAGE):
        frame = data[start : start + _FRAME_HEAD + _PAGE]
        yield plain(frame[_FRAME_HEAD:], house.key, is_first=frame[:4] == b"\0\0\0\1")


def plain(page: bytes, key: bytes, *, is_first: bool) -> bytes:
    body, tail = page[_SALT * is_first : -_TAIL], page[-_TAIL:]
    return Cipher(algorithms.AES(key), modes.CBC(tail[:_IV])).decryptor().update(body)


def hits(decrypted: Iterator[bytes]) -> int:
    return b"".join(decrypted).count(MARK.encode())


async def test_what_was_deleted_is_in_no_page(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.lived_in() as terminal:
        await terminal.types(*(f"{MARK} {number} {'long ' * (number * 40)}" for number in range(60)))
    assert hits(pages(house)) == 60, "the control: it is there, and is found"
    assert MARK.encode() not in house.file.read_bytes()
    async with house.lived_in() as terminal:
        await terminal.ask("DELETE", "/history")
        await terminal.types("afterwards")
    assert b"afterwards" in b"".join(pages(house))
    assert hits(pages(house)) == 0
    assert hits(logged_pages(house)) == 0


async def test_what_grew_too_old_is_in_no_page(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.lived_in(TerminalSettings(longest_history=5)) as terminal:
        await terminal.types(*(f"{MARK} {number} {'long ' * (number * 40)}" for number in range(60)))
    assert hits(pages(house)) == 5
    assert hits(logged_pages(house)) == 0


async def test_the_log_is_encrypted_too(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.lived_in() as terminal:
        await terminal.types(MARK)
        assert hits(logged_pages(house)) > 0, "the control: it is there, and is found"
        assert MARK.encode() not in house.file.with_name("allod.db-wal").read_bytes()
