"""`allod backup` and `allod restore` against a real store: a server gives the bytes, this process puts them back."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from typer.testing import CliRunner

import allod.app
from allod.cli.backup import backup, restore
from allod.cli.failures import Exit, Failure
from allod.gateway.errors import answer_to
from allod.kernel import restore as way_back
from allod.kernel.backup import open_backup, sealed
from allod.kernel.paths import Paths, locked
from allod.sdk.errors import AllodError, Locked
from tests.unit.kernel.data_folders import WORDS, files, kept, new_machine, store, write
from tests.unit.system.asked import serving

app = typer.Typer()
app.command()(backup)
app.command()(restore)


def said(*arguments: str | Path, stdin: str = "") -> tuple[str, str]:
    """What a command prints, and what it says beside."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    made = new_machine(monkeypatch, tmp_path)
    with store(made) as (vault, database):
        write(database, "kept")
        vault.add("passphrase", WORDS)
    return made


@pytest.fixture
def pieces(paths: Paths) -> Iterator[Callable[[], Iterator[bytes]]]:
    """A backup, piece by piece."""
    with store(paths) as (vault, database):
        yield lambda: sealed(vault, database, paths)


Give = Callable[[Callable[[], Iterator[bytes]]], str]


@pytest.fixture
def given(pieces: Callable[[], Iterator[bytes]]) -> Iterator[Give]:
    """The address of a server whose /api/backup gives what it is told to."""
    source = [pieces]
    server = FastAPI()

    @server.get("/api/backup")
    def give() -> StreamingResponse:
        return StreamingResponse(source[0](), media_type="application/octet-stream")

    @server.exception_handler(AllodError)
    async def refuse(request: Request, error: AllodError) -> Response:
        status, body, headers = answer_to(error, request.url.path)
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    with serving(server) as url:

        def begin(wanted: Callable[[], Iterator[bytes]]) -> str:
            source[0] = wanted
            return url

        yield begin


@pytest.fixture
def offline(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> list[Paths]:
    """Which data folder `allod restore` works on."""
    folder = [paths]

    def put_back(file: Path, secret: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        with locked(folder[0]):
            try:
                done = way_back.restore(file, folder[0])
            except way_back.SecretNeeded as needed:
                done = way_back.restore(file, folder[0], secret(needed.kinds))
        moved_to = str(done.moved_to) if done.moved_to else None
        return {"created_at": done.created_at, "version": done.version, "moved_to": moved_to}

    monkeypatch.setattr(allod.app, "restore", put_back, raising=False)
    return folder


def test_a_backup_is_written_for_this_user_alone(
    given: Give, pieces: Callable[[], Iterator[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "b"
    shown, beside = said("backup", file, "--url", given(pieces))
    assert shown.startswith(f"Wrote {file}, ")
    assert shown.endswith(" kB.\n")
    assert beside == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert open_backup(file).opens_elsewhere
    found = json.loads(said("backup", file, "--force", "--json", "--url", given(pieces))[0])
    assert found == {"file": str(file), "size_bytes": file.stat().st_size, "opens_elsewhere": True}


def test_one_that_only_this_machine_opens_is_warned_of(
    given: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = new_machine(monkeypatch, tmp_path / "alone")
    with store(alone) as (vault, database):
        write(database, "kept")
        shown, beside = said("backup", tmp_path / "b", "--url", given(lambda: sealed(vault, database, alone)))
    assert "Only this machine can open it" in beside
    assert "allod vault add recovery" in beside
    assert "Only" not in shown


def test_a_file_that_is_there_is_not_written_over(
    given: Give, pieces: Callable[[], Iterator[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "dear"
    file.write_text("dear to somebody")
    for wrong in (["backup", file], ["backup", tmp_path], ["backup", tmp_path, "--force"], ["backup", "."]):
        with pytest.raises(Failure, match="exists already") as caught:
            said(*wrong, "--url", given(pieces))
        assert caught.value.exit_code == Exit.USAGE
    assert file.read_text() == "dear to somebody"
    said("backup", file, "--force", "--url", given(pieces))
    assert open_backup(file)


@pytest.mark.parametrize("length", [0, 10, 400, 5000, -1])
def test_what_broke_off_is_not_kept(
    given: Give, pieces: Callable[[], Iterator[bytes]], tmp_path: Path, length: int
) -> None:
    whole = b"".join(pieces())
    (tmp_path / "b").write_text("the one before")
    with pytest.raises(Failure, match="cannot be used"):
        said("backup", tmp_path / "b", "--force", "--url", given(lambda: iter([whole[:length]])))
    assert (tmp_path / "b").read_text() == "the one before"
    assert not (tmp_path / "b.part").exists()


def test_a_server_that_fails_in_mid_stream_is_told(
    given: Give, pieces: Callable[[], Iterator[bytes]], tmp_path: Path
) -> None:
    whole = b"".join(pieces())

    def failing() -> Iterator[bytes]:
        yield whole[:100]
        yield whole[100:5000]
        raise OSError("the disk has gone")

    with pytest.raises(Failure, match="broke off") as caught:
        said("backup", tmp_path / "b", "--url", given(failing))
    assert caught.value.exit_code == Exit.ENGINE_FAILED
    assert not list(tmp_path.glob("b*"))


def test_a_refusal_is_told(given: Give, tmp_path: Path) -> None:
    def refusing() -> Iterator[bytes]:
        raise Locked("The store is locked.", fix="Unlock it.")

    with pytest.raises(Failure, match="The store is locked") as caught:
        said("backup", tmp_path / "b", "--url", given(refusing))
    assert (caught.value.exit_code, caught.value.fix) == (Exit.NOT_ALLOWED, "Unlock it.")
    assert not list(tmp_path.glob("b*"))


def test_a_place_that_cannot_be_written_is_told(
    given: Give, pieces: Callable[[], Iterator[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(Failure, match="cannot be written: No such file or directory"):
        said("backup", tmp_path / "no" / "folder", "--url", given(pieces))


# restore


@pytest.fixture
def file(pieces: Callable[[], Iterator[bytes]], tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(b"".join(pieces()))
    return tmp_path / "b"


def test_a_new_machine_asks_for_the_passphrase(
    file: Path, offline: list[Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline[0] = new_machine(monkeypatch, tmp_path / "other")
    shown, beside = said("restore", file, stdin=f"{WORDS}\nmore\n")
    assert shown.startswith("Restored what was kept at 20")
    assert beside == ""
    assert kept(offline[0], WORDS) == ["kept"]


def test_at_a_terminal_it_is_typed_unseen(
    file: Path, offline: list[Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    offline[0] = new_machine(monkeypatch, tmp_path / "other")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as terminal:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(terminal))
        asked: list[str] = []

        def typed(prompt: str) -> str:
            asked.append(prompt)
            return WORDS

        monkeypatch.setattr("getpass.getpass", typed)
        restore(file, json=True)
    os.close(ours)
    assert asked == ["Passphrase: "]
    assert kept(offline[0], WORDS) == ["kept"]


def test_what_was_here_before_is_named(file: Path, offline: list[Paths]) -> None:
    _, beside = said("restore", file)
    (folder,) = offline[0].data.glob("before-restore-*")
    assert str(folder) in beside
    found = json.loads(said("restore", file, "--json")[0])
    assert set(found) == {"created_at", "version", "moved_to"}
    assert Path(found["moved_to"]).is_dir()
    assert kept(offline[0]) == ["kept"]


@pytest.mark.parametrize(
    ("stdin", "reason"),
    [("", "needs its passphrase"), ("\n", "needs its passphrase"), ("wrong wrong wrong\n", "No lock of the")],
)
def test_without_the_right_one_nothing_is_done(
    file: Path, offline: list[Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: str, reason: str
) -> None:
    offline[0] = new_machine(monkeypatch, tmp_path / "other")
    with pytest.raises(Failure, match=reason) as caught:
        said("restore", file, stdin=stdin)
    assert caught.value.exit_code == Exit.NOT_ALLOWED
    assert "ALLOD_API_KEY" not in caught.value.fix
    assert set(files(offline[0].data)) <= {"run/lock", "lock"}


def test_a_file_that_is_none_is_told(file: Path, offline: list[Paths]) -> None:
    with pytest.raises(Failure, match="cannot be read") as caught:
        said("restore", file.with_name("none"))
    assert caught.value.exit_code == Exit.NOT_FOUND
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Failure, match="cut short"):
        said("restore", file)


def test_a_running_server_is_not_disturbed(file: Path, offline: list[Paths]) -> None:
    with locked(offline[0]):
        with pytest.raises(Failure, match="is in use"):
            said("restore", file)
    assert not list(offline[0].data.glob("before-restore-*"))
