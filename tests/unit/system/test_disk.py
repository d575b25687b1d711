"""Bytes, room by room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.extensions.system.disk import measure


def write(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))


def test_each_file_is_counted_in_its_room(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name, size in [
        ("allod.db", 4096),
        ("allod.db-wal", 8192),
        ("allod.db-shm", 100),
        ("models/a.gguf", 1000),
        ("models/deep/er/b.gguf", 2000),
        ("blobs/ab/abcd", 30),
        ("backups/before-kernel-2.db", 4000),
        ("logs/allod.log", 50),
        ("run/server.json", 7),
        ("config.toml", 5),
        ("logs.txt", 3),
    ]:
        write(home / name, size)
    found = measure(home)
    assert found.bytes_by_room == {
        "store": 12388,
        "models": 3000,
        "blobs": 30,
        "backups": 4000,
        "logs": 50,
        "other": 15,
    }
    assert found.total_bytes == 19483
    assert found.unread == 0
    assert abs(found.free_bytes - shutil.disk_usage(tmp_path).free) < 1 << 30


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/large.gguf", 5_000_000)
    home = tmp_path / "home"
    write(home / "models/small.gguf", 10)
    (home / "models/linked.gguf").symlink_to(tmp_path / "elsewhere/large.gguf")
    (home / "blobs").symlink_to(tmp_path / "elsewhere")
    (home / "logs").symlink_to(home)  # round and round
    found = measure(home)
    assert found.total_bytes < 1000
    assert found.bytes_by_room["models"] == 10 + len(str(tmp_path / "elsewhere/large.gguf"))
    assert found.bytes_by_room["blobs"] == 0


@pytest.fixture
def bottomless(tmp_path: Path) -> Iterator[Path]:
    """A folder with folders so deep that no path reaches the last ones: refused to whoever asks, root too."""
    home = tmp_path / "home"
    home.mkdir()
    handles = [os.open(home, os.O_RDONLY)]
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=handles[-1])
        handles.append(os.open("d" * 250, os.O_RDONLY, dir_fd=handles[-1]))
    for handle in handles:
        os.close(handle)
    yield home
    shutil.rmtree(home)


def test_what_cannot_be_looked_at_is_said(bottomless: Path) -> None:
    write(bottomless / "models/a.gguf", 10)
    found = measure(bottomless)
    assert found.unread == 1
    assert found.total_bytes == 10


def test_an_empty_folder_takes_nothing(tmp_path: Path) -> None:
    assert measure(tmp_path).total_bytes == 0
