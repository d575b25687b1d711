"""The data folder: one place, for this user's eyes only."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from allod.kernel.paths import Paths, data_folder
from allod.sdk.errors import StartFailed


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "home")
    paths.create()
    return paths


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_allod_home_is_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "a" / ".." / "b"))
    assert data_folder() == tmp_path / "b"


def test_allod_home_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALLOD_HOME", "~/allod")
    assert data_folder() == tmp_path / "allod"


def test_without_allod_home_it_lies_where_the_platform_puts_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLOD_HOME", raising=False)
    assert data_folder().name == "allod"


def test_all_rooms_are_for_this_user_only_whatever_the_umask(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "home")
    before = os.umask(0)
    try:
        paths.create()
        sockets = paths.sockets()
    finally:
        os.umask(before)
    assert {mode(folder) for folder in (paths.data, paths.models, paths.run, sockets)} == {0o700}


def test_an_open_data_folder_is_closed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    paths = Paths(tmp_path / "home")
    paths.create()
    assert mode(paths.data) == 0o700


def test_a_data_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartFailed, match="cannot be used") as caught:
        Paths(tmp_path / "file" / "home").create()
    assert "ALLOD_HOME" in caught.value.fix


def test_socket_folders_of_processes_that_have_ended_are_removed(paths: Paths) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    old, alive = paths.run / f"sockets-{ended.pid}", paths.run / f"sockets-{os.getppid()}"
    for folder in (old, alive):
        (folder / "1").mkdir(parents=True)
    paths.sockets()
    assert (old.exists(), alive.exists()) == (False, True)


def test_what_an_earlier_process_of_the_same_id_left_is_removed(paths: Paths) -> None:
    """In a container the server has the same id at each start."""
    (paths.run / f"sockets-{os.getpid()}" / "1").mkdir(parents=True)
    assert list(paths.sockets().iterdir()) == []


def test_a_folder_with_a_strange_name_is_left_alone(paths: Paths) -> None:
    strange = [paths.run / "sockets-old", paths.run / f"sockets-{10**30}"]
    for folder in strange:
        folder.mkdir()
    paths.sockets()
    assert all(folder.exists() for folder in strange)


def test_where_the_path_is_too_long_for_a_socket_they_lie_elsewhere(tmp_path: Path) -> None:
    paths = Paths(tmp_path / ("long" * 30))
    paths.create()
    sockets = paths.sockets()
    try:
        assert len(os.fsencode(sockets)) < 90
        assert mode(sockets) == 0o700
    finally:
        sockets.rmdir()
