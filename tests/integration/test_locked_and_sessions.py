"""A locked server, the way in by a passphrase, browsers' sessions, one server a folder, folders that move."""

from __future__ import annotations

import http.client
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.kernel.paths import Paths
from allod.kernel.vault import Vault
from allod.testing.server import RunningServer, free_port, running_server
from tests.http_client import Reply, chat, get, owner, post, request

WORDS = "correct horse battery"
QUIET = "[server]\npreload = false\n"


@pytest.fixture
def locked(home: Path) -> Iterator[RunningServer]:
    """A server whose store opens with a passphrase only."""
    paths = Paths(home)
    paths.create()
    Vault(paths).create(WORDS)
    with running_server(home, settings=QUIET) as server:
        yield server


def unlock(server: RunningServer, secret: str, **more: Any) -> Reply:
    return post(server, "/api/vault/unlock", {"secret": secret, **more}, as_owner=False)


def halves(reply: Reply) -> dict[str, str]:
    """The headers of a session that `reply` opened."""
    (cookie,) = SimpleCookie(reply.headers["set-cookie"]).values()
    session = reply.json.get("session") or reply.json
    return {"Cookie": f"{cookie.key}={cookie.value}", "Allod-Session": session["header"]}


def test_a_locked_server_says_so_everywhere_and_what_to_do(locked: RunningServer) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/api/settings"),
        ("GET", "/api/terminal/history"),
        ("POST", "/api/keys"),
        ("GET", "/api/backup"),
        ("GET", "/nothing"),
    ):
        reply = request(locked, method, path, {} if method == "POST" else None)
        assert reply.status == 423, path
        said = reply.json.get("error") or reply.json
        assert said["code"] == "locked"
        assert "allod vault unlock" in str(said)
    assert get(locked, "/health").status == 200
    assert get(locked, "/health/ready").json["status"] == "locked"
    assert get(locked, "/").status == 200
    assert get(locked, "/api/vault").json["is_open"] is False
    assert not (locked.home / "allod.db").exists()


def test_a_wrong_passphrase_waits_and_a_right_one_opens_all(locked: RunningServer) -> None:
    wrong = unlock(locked, "correct horse batterz")
    assert (wrong.status, wrong.json["code"]) == (401, "wrong_passphrase")
    early = unlock(locked, WORDS)
    assert (early.status, early.json["code"], early.headers["retry-after"]) == (429, "too_many_tries", "1")
    time.sleep(1.1)
    opened = unlock(locked, WORDS, session=True)
    assert opened.status == 201
    assert get(locked, "/api/settings", headers=halves(opened)).status == 200
    guessed = unlock(
        locked, "i know nothing", session=True
    )  # an open store asks for the right one all the same
    assert (guessed.status, "set-cookie" in guessed.headers) == (401, False)
    time.sleep(1.1)
    assert chat(locked, max_tokens=4).status == 200
    assert get(locked, "/api/extensions").json["extensions"][0]["state"] == "active"
    again = unlock(locked, WORDS)  # it is open: this opens one more session, if one is asked for
    assert (again.status, again.json["session"]) == (201, None)
    assert "passphrase" not in locked.log_text().lower() or WORDS not in locked.log_text()


def test_a_recovery_code_opens_too(home: Path) -> None:
    with running_server(home, settings=QUIET) as server:
        made = post(server, "/api/vault/slots", {"kind": "recovery"})
        assert made.status == 201
        code = made.json["code"]
        assert get(server, "/api/vault").json["opens_elsewhere"] is True
        (keyfile,) = [slot for slot in get(server, "/api/vault").json["slots"] if slot["kind"] == "keyfile"]
        assert request(server, "DELETE", f"/api/vault/slots/{keyfile['id']}").status == 204
    with running_server(home, settings=QUIET) as server:
        assert get(server, "/v1/models").status == 423
        assert unlock(server, code.lower()).status == 201
        assert get(server, "/v1/models").status == 200


# sessions


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("sessions") / "home", settings=QUIET) as server:
        yield server


def token_of(server: RunningServer) -> tuple[str, Path]:
    file = Path(post(server, "/api/sessions/tokens", {}).json["file"])
    return file.read_text().partition("#token=")[2].partition('"')[0], file


def opened(server: RunningServer) -> dict[str, str]:
    token, _ = token_of(server)
    return halves(post(server, "/api/sessions/open", {"token": token}, as_owner=False))


def test_a_browser_is_let_in_by_a_file_that_only_its_owner_reads(quiet: RunningServer) -> None:
    token, file = token_of(quiet)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert f"{quiet.url}/#token={token}" in file.read_text()
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if token in line]

    reply = post(quiet, "/api/sessions/open", {"token": token}, as_owner=False)
    assert reply.status == 201
    assert not file.exists()
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert get(quiet, "/api/settings", headers=halves(reply)).status == 200


def test_a_token_works_once(quiet: RunningServer) -> None:
    token, _ = token_of(quiet)
    assert post(quiet, "/api/sessions/open", {"token": token}, as_owner=False).status == 201
    twice = post(quiet, "/api/sessions/open", {"token": token}, as_owner=False)
    assert (twice.status, "allod open" in twice.json["fix"]) == (401, True)
    assert post(quiet, "/api/sessions/open", {"token": "x"}, as_owner=False).status == 401


def test_another_server_of_localhost_that_gets_the_cookie_gains_nothing(quiet: RunningServer) -> None:
    session = opened(quiet)
    stolen = {"Cookie": session["Cookie"]}  # browsers hand it to every port of localhost
    for headers in (stolen, {**stolen, "Allod-Session": ""}, {**stolen, "Allod-Session": session["Cookie"]}):
        assert get(quiet, "/api/settings", headers=headers).status == 401
        assert request(quiet, "PATCH", "/api/settings/server", {"port": 1}, headers=headers).status == 401
    page = {**session, "Origin": f"http://localhost:{free_port()}"}
    assert (
        get(quiet, "/api/settings", headers=page).status == 403
    )  # not even with both, from another port's page
    assert get(quiet, "/api/settings", headers={**session, "Origin": "null"}).status == 403


def test_sessions_are_listed_and_ended(quiet: RunningServer) -> None:
    session = opened(quiet)
    before = len(get(quiet, "/api/sessions").json["sessions"])
    ended = request(quiet, "DELETE", "/api/sessions/current", headers=session)
    assert ended.status == 204
    assert len(get(quiet, "/api/sessions").json["sessions"]) == before - 1
    assert get(quiet, "/api/settings", headers=session).status == 401
    assert request(quiet, "DELETE", "/api/sessions/none").status == 404


def test_who_is_shut_out_hears_nothing_more(quiet: RunningServer) -> None:
    session = opened(quiet)
    connection = http.client.HTTPConnection("127.0.0.1", quiet.port, timeout=20)
    try:
        connection.request("GET", "/api/events", headers=session)
        stream = connection.getresponse()
        assert stream.status == 200
        request(quiet, "DELETE", "/api/sessions/current", headers=session)
        request(quiet, "PATCH", "/api/settings/terminal", {"longest_history": 5})
        assert b"SettingsChanged" not in stream.read()
    finally:
        connection.close()


def test_a_session_outlives_a_restart(home: Path) -> None:
    with running_server(home, settings=QUIET) as server:
        session = opened(server)
    with running_server(home, settings=QUIET) as server:
        assert get(server, "/api/settings", headers=session).status == 200


def test_the_page_brings_what_it_needs_and_nothing_from_outside(quiet: RunningServer) -> None:
    page = get(quiet, "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    for place in ("/page/page.js", "/page/page.css"):
        assert place in page.body.decode()
        asset = get(quiet, place)
        assert asset.status == 200
        assert b"http://" not in asset.body and b"https://" not in asset.body
    assert get(quiet, "/page/page.html").status == 404
    assert get(quiet, "/page/..%2f..%2fauth.py").status == 404


# keys


def test_a_key_opens_what_its_rights_say(quiet: RunningServer) -> None:
    made = post(quiet, "/api/keys", {"name": "viewer", "rights": ["read"], "expires_in_days": 1})
    key = {"Authorization": f"Bearer {made.json['key']}"}
    assert get(quiet, "/api/settings", headers=key).status == 200
    refused = request(quiet, "PATCH", "/api/settings/server", {"port": 1}, headers=key)
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert get(quiet, "/api/keys", headers=key).status == 403
    (row,) = [row for row in get(quiet, "/api/keys").json["keys"] if row["name"] == "viewer"]
    assert row["rights"] == ["read"]
    assert row["last_used_at"] is not None
    assert "sha256" not in row
    wrong = post(quiet, "/api/keys", {"name": "x", "rights": ["fly"]})
    assert (wrong.status, wrong.json["param"]) == (400, "rights")


# folders


def serve(
    home: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    command = [sys.executable, "-m", "allod", "serve", "--port", str(free_port()), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ALLOD_HOME": str(home), **(environment or {})},
    )


def test_one_server_for_each_data_folder(quiet: RunningServer) -> None:
    second = serve(quiet.home)
    assert second.returncode == 3
    assert f"in use by the server at {quiet.url} (process {quiet.process.pid})" in second.stderr
    assert "ALLOD_HOME" in second.stderr
    assert get(quiet, "/health").status == 200


def test_a_data_folder_can_be_moved(home: Path, tmp_path: Path) -> None:
    with running_server(home, settings=QUIET) as server:
        post(server, "/api/terminal/history", {"text": "before the move"})
    moved = tmp_path / "elsewhere" / "data"
    moved.parent.mkdir()
    shutil.move(home, moved)
    with running_server(moved, settings=QUIET) as server:
        assert [row["text"] for row in get(server, "/api/terminal/history").json["history"]] == [
            "before the move"
        ]
    assert str(home) not in "".join(
        file.read_bytes().decode("latin-1") for file in moved.rglob("*") if file.is_file()
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount")
def test_a_read_only_data_folder_is_a_clear_refusal(home: Path) -> None:
    with running_server(home, settings=QUIET):
        pass
    subprocess.run(["mount", "--bind", str(home), str(home)], check=True, timeout=10)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True, timeout=10)
        said = serve(home)
        assert said.returncode != 0
        assert "cannot be" in said.stderr
        assert "ALLOD_HOME" in said.stderr
        assert "Traceback" not in said.stderr
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True, timeout=10)


def test_a_new_root_key_while_the_server_runs(home: Path) -> None:
    with running_server(home, settings=QUIET) as server:
        post(server, "/api/terminal/history", {"text": "kept"})
        before = (home / "allod.db").read_bytes()[:16]
        rotated = post(server, "/api/vault/rotate", {})
        assert rotated.body.endswith(b"data: [DONE]\n\n")
        assert b'"progress":1' in rotated.body
        assert get(server, "/api/terminal/history").json["history"][0]["text"] == "kept"
        assert owner(server)
    with running_server(home, settings=QUIET) as server:
        assert get(server, "/api/terminal/history").json["history"][0]["text"] == "kept"
    assert before
