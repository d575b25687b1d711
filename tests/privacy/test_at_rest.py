"""Nothing that is kept can be read without the key, nothing that goes wrong says what it was about."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allod.testing.server import RunningServer, free_port, running_server
from tests.http_client import CHAT, Reply, get, owner, post, request, user
from tests.privacy.canary import files_with, new_mark, variants

MARK = new_mark()
QUIET = "[server]\npreload = false\n"


def use(server: RunningServer) -> None:
    """Leave the mark wherever something is kept: texts, names, settings, what was asked, what went wrong."""
    me = owner(server)

    def ask(method: str, path: str, body: Any = None) -> Reply:
        reply = request(server, method, path, body, headers=me)
        assert reply.status < 300, reply.body
        return reply

    ask("POST", "/api/terminal/history", {"text": f"what is {MARK}?"})
    ask("POST", "/api/keys", {"name": MARK})
    ask("PATCH", "/api/settings/llamacpp", {"models": {MARK: {"slots": 2}}})
    ask(
        "POST",
        "/api/egress/grants",
        {"extension": "terminal", "host": f"{MARK.lower()}.example", "purpose": MARK},
    )
    token = read_token(server, ask("POST", "/api/sessions/tokens").json["file"])
    opened = request(server, "POST", "/api/sessions/open", {"token": token}, headers={"User-Agent": MARK})
    assert opened.status == 201
    ask("POST", CHAT, {"model": "jan", "messages": user(f"Say {MARK}."), "max_tokens": 8, "user": MARK})


def read_token(server: RunningServer, file: str) -> str:
    return Path(file).read_text().partition("#token=")[2].partition('"')[0]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after use; the server was killed, so that its write-ahead log lies there too."""
    home = tmp_path_factory.mktemp("used") / "home"
    with running_server(home, settings=QUIET) as server:
        use(server)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    assert (home / "allod.db-wal").stat().st_size > 0
    return home


def test_the_search_finds_what_there_is_to_find(tmp_path: Path) -> None:
    for number, form in enumerate(variants(MARK)):
        (tmp_path / f"control {number}").write_bytes(b"xx" + form + b"yy")
    (tmp_path / f"{MARK}.txt").write_text("a name")
    assert len(files_with(MARK, tmp_path)) == len(variants(MARK)) + 1


def test_no_word_can_be_read_in_the_data_folder_nor_in_the_log(used: Path) -> None:
    assert files_with(MARK, used.parent) == []
    assert not (used / "allod.db").read_bytes().startswith(b"SQLite format 3")


def test_it_is_all_there_for_who_has_the_key(used: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    copied(used, home)
    with running_server(home, settings=QUIET) as server:
        me = owner(server)
        assert MARK in str(get(server, "/api/terminal/history", headers=me).json)
        assert MARK in str(get(server, "/api/keys", headers=me).json)
        assert MARK in get(server, "/api/settings/llamacpp", headers=me).json["values"]["models"]
        assert MARK in str(get(server, "/api/sessions", headers=me).json)


def copied(folder: Path, to: Path) -> None:
    """A copy of a data folder, without the sockets of the server that ran there."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("run"))


def serve(home: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """A start that fails."""
    command = [sys.executable, "-m", "allod", "serve", "--port", str(free_port())]
    environment = {
        "ALLOD_HOME": str(home),
        "XDG_CONFIG_HOME": str(config),
        "PATH": "/usr/bin:/bin",
        "HOME": str(config),
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "run" not in file.parts and file.name != "lock"
    }


def test_a_stolen_data_folder_opens_nothing(used: Path, tmp_path: Path) -> None:
    home = tmp_path / "stolen"
    copied(used, home)
    before = content(home)
    said = serve(home, tmp_path / "the thief's")
    assert said.returncode != 0
    assert "key file" in said.stderr
    assert "Traceback" not in said.stderr
    assert content(home) == before
    assert not (tmp_path / "the thief's/allod/keys").exists()


def damaged(used: Path, home: Path, name: str, damage: Any) -> str:
    """What the server says when a file is damaged. Nothing is overwritten."""
    copied(used, home)
    file = home / name
    file.write_bytes(damage(file.read_bytes()))
    (home / "allod.db-wal").unlink()
    (home / "allod.db-shm").unlink()
    before = content(home)
    said = serve(home, Path(os.environ["XDG_CONFIG_HOME"]))
    assert said.returncode != 0
    assert "Traceback" not in said.stderr
    assert content(home).keys() >= before.keys()
    assert content(home)[name] == before[name]
    return said.stderr


@pytest.fixture(scope="module")
def folded(used: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after an orderly stop: all is in the one file."""
    home = tmp_path_factory.mktemp("folded") / "home"
    copied(used, home)
    with running_server(home, settings=QUIET):
        pass
    (home / "allod.db-wal").touch()
    (home / "allod.db-shm").touch()
    return home


def flip(place: int) -> Any:
    def flipped(whole: bytes) -> bytes:
        changed = bytearray(whole)
        changed[place % len(whole)] ^= 1
        return bytes(changed)

    return flipped


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:3000], flip(100), lambda whole: b""], ids=["cut", "flip", "empty"]
)
def test_a_damaged_store_is_said_and_left_alone(folded: Path, tmp_path: Path, damage: Any) -> None:
    said = damaged(folded, tmp_path / "home", "allod.db", damage)
    assert "cannot be read" in said or "is missing" in said or "damaged" in said
    assert "allod restore" in said


def test_a_flipped_byte_further_on_is_found_by_the_doctor(folded: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    copied(folded, home)
    whole = (home / "allod.db").read_bytes()
    (home / "allod.db").write_bytes(flip(len(whole) - 50)(whole))
    with running_server(home, settings=QUIET) as server:
        checks = {
            check["name"]: check for check in get(server, "/api/doctor", headers=owner(server)).json["checks"]
        }
        assert checks["store is sound"]["status"] == "fail"
        assert "allod restore" in checks["store is sound"]["fix"]


# errors and logs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("canary") / "home", settings=QUIET) as running:
        yield running


NAMES = {
    *("model", "name", "host", "extension", "kind", "path", "rights", "purpose", "assistant", "project"),
    *("preset", "message", "parent", "regenerate", "instead_of", "continue", "threads"),
}
"""Fields that hold a name, which an error may say back."""


def bodies(schema: dict[str, Any]) -> Iterator[Any]:
    """Wrong bodies that carry the mark: as a whole, as an unknown field's value, and in each field."""
    yield MARK
    yield [MARK]
    yield {"unknown": MARK}
    for name in schema.get("properties", {}).keys() - NAMES:
        yield {name: [[MARK]]}
        yield {name: MARK}


def test_no_error_and_no_log_quotes_what_was_sent(server: RunningServer) -> None:
    document = get(server, "/openapi.json").json
    schemas = document["components"]["schemas"]
    me = owner(server)
    asked = 0
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is None:
                continue
            broken = f'{{"text": "{MARK}'.encode()
            schema = schemas.get(str(body.get("$ref", "")).rpartition("/")[2], {})
            place = re.sub(r"\{.*?\}", "terminal", path)
            for wrong in [broken, *bodies(schema)]:
                reply = request(server, method.upper(), place, wrong, headers=me)
                if reply.status >= 400:
                    asked += 1
                    assert reply.status < 500, (place, wrong, reply.body)
                    assert MARK.encode() not in reply.body, (place, wrong)
    assert asked > 100
    log = server.log_text()
    assert MARK not in log
    assert "Traceback" not in log


def test_no_log_quotes_a_name_or_a_place(server: RunningServer) -> None:
    """An answer may say a name back to whoever gave it; the log says none of them."""
    document = get(server, "/openapi.json").json
    schemas = document["components"]["schemas"]
    me = owner(server)
    asked = 0
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            body = (
                route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            )
            schema = schemas.get(str(body.get("$ref", "")).rpartition("/")[2], {})
            named = [{name: MARK} for name in schema.get("properties", {}).keys() & NAMES]
            if "{" not in path and not named and method != "get":
                continue
            place = re.sub(r"\{.*?\}", MARK, path)
            query = (
                f"?before={MARK}&extension={MARK}&host={MARK}.example" if method in ("get", "delete") else ""
            )
            bodiless: list[Any] = [{} if body else None]
            for sent in named or bodiless:
                if path != "/api/events":  # which does not end
                    reply = request(server, method.upper(), place + query, sent, headers=me)
                    assert reply.status < 500, (place, sent, reply.body)
                    asked += 1
    assert asked > 40
    assert MARK not in server.log_text()


def test_halves_of_characters_are_refused_where_they_could_be_kept(server: RunningServer) -> None:
    reply = post(server, "/api/terminal/history", b'{"text": "\\ud800 x"}', headers=owner(server))
    assert reply.status == 400
    whole = post(server, "/api/terminal/history", b'{"text": "\\ud83d\\ude00"}', headers=owner(server))
    assert whole.status == 201
