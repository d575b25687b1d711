"""A mark that no text has by chance, and where to look for it: files, open files, memory, pages of the store."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from allod.kernel import crypto
from allod.kernel.paths import Paths
from allod.kernel.storage import Database
from allod.kernel.vault import Vault

_PAGE, _TAIL, _IV, _SALT = 4096, 80, 16, 16
"""SQLCipher 4: AES-256-CBC; each page ends with its IV and an HMAC-SHA512, the first one begins with the salt."""
_WAL_HEAD, _FRAME_HEAD = 32, 24  # sqlite.org/fileformat2.html, "WAL File Format"
_BLOCK, _LONGEST = 1 << 24, 64


def new_mark() -> str:
    """A fresh one."""
    return f"ALLODCANARY{secrets.token_hex(6)}"


def variants(mark: str) -> list[bytes]:
    """How it could stand in a file: plain, small, in other encodings, backwards, in base64 at each offset."""
    raw = mark.encode()
    coded = [base64.b64encode(bytes(offset) + raw)[offset * 4 // 3 + 3 : -4] for offset in range(3)]
    return [raw, raw.lower(), mark.encode("utf-16-le"), raw.hex().encode(), raw[::-1], *coded]


def files_with(mark: str, *folders: Path, since: float = 0) -> list[str]:
    """The files below `folders`, written since then, whose name or content holds it in any form."""
    wanted = variants(mark)
    found = []
    for folder in folders:
        for file in _files(folder, since):
            with suppress(FileNotFoundError):  # it was there a moment ago
                content = file.read_bytes()
                if mark.lower() in file.name.lower() or any(form in content for form in wanted):
                    found.append(file.name)
    return found


def _files(folder: Path, since: float) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):  # which passes over folders that vanish meanwhile
        for name in sorted(names):
            if _is_file(file := Path(parent, name), since):
                yield file


def _is_file(path: Path, since: float) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since
    except OSError:  # it was there a moment ago
        return False


def open_files_with(mark: str, process: psutil.Process) -> list[str]:
    """What a process holds open, deleted files too, that holds it in any form."""
    wanted = variants(mark)
    found = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile, or no file
            if link.is_file() and any(form in link.read_bytes() for form in wanted):
                found.append(str(link.readlink()))
    return found


def copies_in(process: psutil.Process, mark: str, *, shared_only: bool = False) -> int:
    """How often it stands, in any form, in the memory of a process, or in what it shares with others of it."""
    forms = variants(mark)
    return sum(block.count(form) for block in _blocks(process, shared_only) for form in forms)


def _blocks(process: psutil.Process, shared_only: bool) -> Iterator[bytes]:
    """All that is mapped and may be read."""
    with Path(f"/proc/{process.pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            is_wanted = rights[0] == "r" and (not shared_only or rights[3] == "s")
            if not is_wanted or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            while start < end:
                try:
                    block = os.pread(memory.fileno(), min(_BLOCK, end - start), start)
                except OSError:  # behind the end of a mapped file
                    break
                if len(block) <= _LONGEST:  # nothing new
                    break
                yield block
                start += len(block) - (_LONGEST if start + len(block) < end else 0)  # what stands across two


# the store, by its key


def key_of(home: Path) -> bytes:
    """The key of the store of a data folder that opens by itself."""
    vault = Vault(Paths(home))
    assert vault.open_by_itself()
    return crypto.derive(vault.root, "database")


def open_store(home: Path) -> Database:
    """The store of a data folder, as it is; a server may run on it."""
    return Database(Paths(home).store, key_of(home))


def pages(home: Path, key: bytes) -> bytes:
    """Every page of the store, and of the log beside it, decrypted."""
    file = Paths(home).store
    log = file.with_name(f"{file.name}-wal")
    return b"".join(_pages(file.read_bytes(), key)) + b"".join(
        _logged(log.read_bytes() if log.exists() else b"", key)
    )


def _pages(data: bytes, key: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _PAGE):
        yield _plain(data[start : start + _PAGE], key, is_first=start == 0)


def _logged(data: bytes, key: bytes) -> Iterator[bytes]:
    for start in range(_WAL_HEAD, len(data), _FRAME_HEAD + _PAGE):
        frame = data[start : start + _FRAME_HEAD + _PAGE]
        yield _plain(frame[_FRAME_HEAD:], key, is_first=frame[:4] == b"\0\0\0\1")


def _plain(page: bytes, key: bytes, *, is_first: bool) -> bytes:
    body, tail = page[_SALT * is_first : -_TAIL], page[-_TAIL:]
    return Cipher(algorithms.AES(key), modes.CBC(tail[:_IV])).decryptor().update(body)
