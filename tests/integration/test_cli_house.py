"""The commands for extensions, settings, jobs, events, keys, egress, sessions and the store, on real servers."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from allod.cli.failures import Exit
from allod.testing.server import RunningServer, free_port, running_server
from tests.command_line import COMMAND, allod, at_terminal, environment, lines, refused, told
from tests.http_client import Reply, get, post
from tests.packages import PACKAGES

QUIET = "[server]\npreload = false\n"
GUESTS = """
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from allod.sdk.errors import Conflict
from allod.sdk.extension import Extension, Manifest
from allod.sdk.jobs import JobKind


class Nothing(BaseModel):
    pass


class Stumble(JobKind[Nothing]):
    name, title, parameters = "stumble", "Stumble", Nothing

    async def run(self, job):
        raise Conflict("There was a stone.", fix="Lift your feet.")


class Caller(Extension[Any]):
    manifest = Manifest(name="caller", summary="Asks the world.", egress=("user",))

    def jobs(self):
        return [Stumble()]

    def router(self):
        router = APIRouter()

        @router.post("/ask")
        async def ask(url: str) -> dict[str, int]:
            async with self.context.http.open("GET", url, purpose="look") as answer:
                await answer.read()
                return {"status": answer.status}

        return router
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with three more extensions: one with jobs, one that asks the world, one that is broken."""
    site = tmp_path_factory.mktemp("site")
    (site / "allod_caller.py").write_text(GUESTS)
    (site / "allod_broken.py").write_text('raise RuntimeError("a screw is loose")\n')
    for name, value in (
        ("notes", "allod_notes:Notes"),
        ("caller", "allod_caller:Caller"),
        ("broken", "allod_broken:Broken"),
    ):
        facts = site / f"allod_{name}-1.5.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: allod-{name}\nVersion: 1.5\n")
        (facts / "entry_points.txt").write_text(f"[allod.extensions]\n{name} = {value}\n")
    return {"PYTHONPATH": os.pathsep.join([str(site), str(PACKAGES / "allod-notes")])}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, guests: dict[str, str]) -> Iterator[RunningServer]:
    """A server with these extensions, to be changed."""
    home = tmp_path_factory.mktemp("house") / "home"
    with running_server(home, settings=QUIET, environment=guests) as running:
        yield running


@contextmanager
def following(server: RunningServer, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that prints line by line until it is ended."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(server.home, server.port, {}),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


# extensions


def test_extensions_are_listed_with_what_to_do_about_each_that_does_not_run(house: RunningServer) -> None:
    shown = lines(house, "extensions")
    assert shown == lines(house, "extensions", "list")
    assert shown[0].split() == ["NAME", "STATE", "VERSION", "SUMMARY"]
    assert any(line.split()[:3] == ["notes", "active", "1.5"] for line in shown)
    (place,) = [
        number for number, line in enumerate(shown) if line.startswith("broken: It cannot be imported")
    ]
    reason, fix = shown[place : place + 2]
    assert fix.startswith("  → ")
    assert "allod extensions disable broken" in fix
    rows = told(house, "extensions")["extensions"]
    assert {row["name"]: row["state"] for row in rows}["broken"] == "failed"
    assert reason.endswith(next(row["reason"] for row in rows if row["name"] == "broken"))
    assert "allod_broken.py" in reason


def test_an_extension_is_shown(house: RunningServer) -> None:
    shown = "\n".join(lines(house, "extensions", "show", "notes"))
    for text in ("active", "allod-notes 1.5", "jobs: import_notes", "routes: /api/notes"):
        assert text in shown
    assert told(house, "extensions", "show", "notes")["contributes"]["tools"] == ["count"]
    assert "allod extensions" in refused(house, Exit.NOT_FOUND, "extensions", "show", "nobody")


def test_an_extension_is_switched_off_and_on(house: RunningServer) -> None:
    assert told(house, "extensions", "disable", "notes")["state"] == "disabled"
    assert "allod extensions enable notes" in refused(
        house, Exit.BAD_REQUEST, "extensions", "restart", "notes"
    )
    assert get(house, "/api/notes/notes").status == 404
    assert lines(house, "extensions", "enable", "notes") == ["notes is switched on, now and from now on."]
    assert lines(house, "extensions", "restart", "notes") == ["notes runs again."]
    assert told(house, "extensions", "restart", "notes")["state"] == "active"
    assert get(house, "/api/notes/notes").status == 200
    assert "cannot be imported" in refused(house, Exit.UNEXPECTED, "extensions", "enable", "broken")
    for act in ("enable", "disable", "restart"):
        refused(house, Exit.NOT_FOUND, "extensions", act, "nobody")


def test_doctor_names_the_broken_one(house: RunningServer) -> None:
    done = allod(house, "doctor")
    assert done.returncode == Exit.UNEXPECTED
    assert "✗ extension broken" in done.stdout
    assert "cannot be imported" in done.stdout
    (check,) = [each for each in told_of_doctor(house) if each["name"] == "extension broken"]
    assert (check["status"], "disable broken" in check["fix"]) == ("fail", True)


def told_of_doctor(server: RunningServer) -> list[dict[str, Any]]:
    checks: list[dict[str, Any]] = json.loads(allod(server, "doctor", "--json").stdout)["checks"]
    return checks


# settings


def test_settings_are_listed_with_where_they_come_from(house: RunningServer) -> None:
    head, *rows = lines(house, "settings")
    assert head.split() == ["SETTING", "VALUE", "FROM", "TITLE"]
    by_name = {row.split()[0]: row.split() for row in rows}
    assert by_name["server.preload"][1:3] == ["false", "file"]
    assert by_name["server.port"][1:4] == [str(house.port), "command", "line"]
    assert [row.split()[0] for row in lines(house, "settings", "notes")[1:]] == ["notes.prefix"]
    found = told(house, "settings", "notes", "server")["settings"]
    assert [each["namespace"] for each in found] == ["notes", "server"]
    assert "'nobody'" in refused(house, Exit.NOT_FOUND, "settings", "nobody")
    assert "allod settings reset" in refused(house, Exit.NOT_FOUND, "settings", "reste", "server.port")


def test_a_setting_is_read_changed_and_reset(house: RunningServer) -> None:
    assert lines(house, "settings", "get", "notes.prefix") == ["Note:"]
    assert lines(house, "settings", "set", "notes.prefix", "Mind this:") == [
        'notes.prefix is "Mind this:" (from: user).'
    ]
    assert told(house, "settings", "get", "notes.prefix")["source"] == "user"
    assert told(house, "settings", "set", "llamacpp.gpu_layers", "-1")["value"] == -1
    assert told(house, "settings", "set", "server.allowed_hosts", '["a.example"]')["value"] == ["a.example"]
    for setting in ("notes.prefix", "llamacpp.gpu_layers", "server.allowed_hosts"):
        assert told(house, "settings", "reset", setting)["source"] == "default"


def test_what_counts_at_the_next_start_only_says_so(house: RunningServer) -> None:
    done = allod(house, "settings", "set", "server.preload", "true")
    assert "server.preload is true" in done.stdout
    assert "next start" in done.stderr
    told(house, "settings", "reset", "server.preload")
    now = allod(house, "settings", "set", "server.max_waiting", "100")
    assert (now.returncode, now.stderr) == (0, "")
    told(house, "settings", "reset", "server.max_waiting")


def test_a_wrong_setting_or_value_changes_nothing(house: RunningServer) -> None:
    before = told(house, "settings")
    assert "max_waiting" in refused(house, Exit.BAD_REQUEST, "settings", "set", "server.max_waiting", "few")
    assert "command line" in refused(house, Exit.BAD_REQUEST, "settings", "set", "server.port", "1400")
    assert "'prot'" in refused(house, Exit.NOT_FOUND, "settings", "set", "server.prot", "1")
    assert "server.port" in refused(house, Exit.NOT_FOUND, "settings", "get", "server.prot")
    refused(house, Exit.NOT_FOUND, "settings", "reset", "server.prot")
    refused(house, Exit.USAGE, "settings", "get", "server")
    assert told(house, "settings") == before


def test_a_server_of_a_commands_own_time_does_not_answer_for_its_port(home: Path) -> None:
    assert "allod serve" in refused(home, Exit.UNREACHABLE, "settings", "set", "server.port", "1400")
    assert told(home, "settings", "set", "server.max_waiting", "7")["source"] == "user"
    assert lines(home, "settings", "get", "server.max_waiting") == ["7"]


# jobs and events


def started(server: RunningServer, pause_s: float, *texts: str) -> str:
    """A job that keeps these texts."""
    wanted = [f"texts={json.dumps(texts)}", f"pause_s={pause_s}"]
    return str(told(server, "jobs", "start", "notes", "import_notes", *wanted)["id"])


def test_a_job_is_started_paused_resumed_and_watched_to_its_end(house: RunningServer) -> None:
    job = started(house, 0.4, "one", "two", "three")
    assert told(house, "jobs", "pause", job)["state"] == "paused"
    assert lines(house, "jobs", "show", job)[2].split() == ["state", "paused"]
    assert lines(house, "jobs", "resume", job)[0].startswith(f"The job {job} is ")
    watched = lines(house, "jobs", "watch", job)
    assert watched[-1] == "Import notes · done · 100%"
    assert any("running" in line for line in watched)
    assert told(house, "jobs", "watch", job)["result"] == {"kept": 3}
    head, first, *_ = lines(house, "jobs")
    assert head.split()[:4] == ["ID", "EXTENSION", "JOB", "STATE"]
    assert first.startswith(f"{job}  notes")
    assert told(house, "jobs", "show", job) == told(house, "jobs")["jobs"][0]


def test_a_job_that_fails_or_is_cancelled_fails_its_watch(house: RunningServer) -> None:
    job = started(house, 60, "never")
    assert told(house, "jobs", "cancel", job)["state"] == "cancelled"
    done = allod(house, "jobs", "watch", job)
    assert done.returncode == Exit.UNEXPECTED
    assert f"allod jobs resume {job}" in done.stderr
    stumbling = told(house, "jobs", "start", "caller", "stumble")["id"]
    done = allod(house, "jobs", "watch", stumbling)
    assert done.returncode == Exit.UNEXPECTED
    assert "There was a stone." in done.stderr
    assert "Lift your feet." in done.stderr
    assert "Lift your feet." in "\n".join(lines(house, "jobs", "show", stumbling))


def test_a_bar_shows_at_a_terminal_how_far_a_job_is(house: RunningServer) -> None:
    job = started(house, 0.5, "one", "two", "three", "four")
    with at_terminal(house, "jobs", "watch", job) as terminal:
        terminal.sees("running")
        terminal.sees("━")
        terminal.sees("done · 100%")
        assert terminal.process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "nobody"], Exit.NOT_FOUND),
        (["watch", "nobody"], Exit.NOT_FOUND),
        (["pause", "nobody"], Exit.NOT_FOUND),
        (["start", "notes", "nothing"], Exit.NOT_FOUND),
        (["start", "nobody", "nothing"], Exit.NOT_FOUND),
        (["start", "notes", "import_notes"], Exit.BAD_REQUEST),
        (["start", "notes", "import_notes", "texts"], Exit.USAGE),
    ],
)
def test_a_wrong_job_is_refused(house: RunningServer, arguments: list[str], code: Exit) -> None:
    refused(house, code, "jobs", *arguments)


def test_a_job_without_a_server_goes_on_when_it_is_watched(home: Path, guests: dict[str, str]) -> None:
    wanted = ["jobs", "start", "notes", "import_notes", 'texts=["one"]', "pause_s=0.5"]
    done = allod(home, *wanted, "--json", **guests)
    job = json.loads(done.stdout)["id"]
    assert f"allod jobs watch {job}" in done.stderr
    assert told(home, "jobs", "show", job, **guests)["state"] != "failed"
    watched = allod(home, "jobs", "watch", job, **guests)
    assert (watched.returncode, watched.stdout.splitlines()[-1]) == (0, "Import notes · done · 100%")


def line_of_a_change(server: RunningServer, process: subprocess.Popen[str]) -> str:
    """Change a setting until a reader that has just begun tells of it."""
    assert process.stdout is not None
    for number in range(100):
        told(server, "settings", "set", "server.max_waiting", str(200 + number))
        if select.select([process.stdout], [], [], 0.1)[0]:
            return process.stdout.readline()
    raise AssertionError("no event came")


def test_events_come_a_line_each_until_ctrl_c(house: RunningServer) -> None:
    with following(house, "events") as words:
        line = line_of_a_change(house, words)
        assert 'kernel SettingsChanged namespace="server" fields=["max_waiting"]' in line
        words.send_signal(signal.SIGINT)
        assert words.wait(20) == 0
        assert words.stderr is not None
        assert words.stderr.read() == ""
    with following(house, "events", "--json") as objects:
        event = json.loads(line_of_a_change(house, objects))
        assert (event["event"], event["data"]["fields"]) == ("SettingsChanged", ["max_waiting"])
        objects.send_signal(signal.SIGINT)
        assert objects.wait(20) == 0
    told(house, "settings", "reset", "server.max_waiting")


def test_events_go_on_after_a_restart_of_the_server(home: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        with running_server(home, settings=QUIET, port=port) as first:
            process = stack.enter_context(following(first, "events", "--json"))
            assert json.loads(line_of_a_change(first, process))["event"] == "SettingsChanged"
        second = stack.enter_context(running_server(home, port=port))
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "The connection was lost; trying again …\n"
        assert process.stderr.readline() == "Connected again.\n"
        events = map(json.loads, iter(process.stdout.readline, ""))
        assert any(event["event"] == "Gap" for event in events)
        told(second, "settings", "set", "server.max_waiting", "10")
        assert any(event["event"] == "SettingsChanged" for event in events)
    assert "allod serve" in refused(home, Exit.UNREACHABLE, "events")


# keys and sessions


def test_a_key_has_rights_an_end_and_a_last_use(house: RunningServer) -> None:
    made = allod(
        house, "keys", "create", "my phone", "--right", "read", "--right", "notes", "--expires-in-days", "30"
    )
    secret = made.stdout.strip()
    (key,) = told(house, "keys")["keys"]
    assert key["rights"] == ["notes", "read"]
    assert key["expires_at"] == pytest.approx(key["created_at"] + 30 * 86400, abs=5)
    head, row = lines(house, "keys")
    assert head.split() == ["ID", "NAME", "RIGHTS", "CREATED", "EXPIRES", "LAST", "USED"]
    assert row.endswith("never")
    nobodys = {"ALLOD_URL": house.url, "ALLOD_API_KEY": secret}
    assert told(house, "extensions", "show", "notes", **nobodys)["name"] == "notes"
    assert "'admin'" in refused(house, Exit.NOT_ALLOWED, "vault", **nobodys)
    assert not lines(house, "keys")[1].endswith("never")
    assert told(house, "keys", "create", "plain")["rights"] == ["chat"]
    assert "'nonsense'" in refused(house, Exit.BAD_REQUEST, "keys", "create", "x", "--right", "nonsense")
    refused(house, Exit.BAD_REQUEST, "keys", "create", "x", "--expires-in-days", "-1")
    for each in told(house, "keys")["keys"]:
        told(house, "keys", "remove", each["id"])


def opened(server: RunningServer, file: Path) -> Reply:
    """What a browser gets that has followed `file`."""
    token = file.read_text().partition("#token=")[2].partition('"')[0]
    return post(
        server, "/api/sessions/open", {"token": token}, headers={"User-Agent": "Testfox"}, as_owner=False
    )


def test_a_browser_is_led_in_by_a_file_and_its_session_ended(house: RunningServer) -> None:
    assert "allod open" in allod(house, "sessions").stderr
    file = Path(lines(house, "open", "--print")[0])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert opened(house, file).status == 201
    (session,) = told(house, "sessions")["sessions"]
    assert session["label"] == "Testfox"
    assert lines(house, "sessions")[1].endswith("Testfox")
    assert told(house, "sessions", "end", session["id"]) == {"ended": session["id"]}
    assert told(house, "sessions") == {"sessions": []}
    refused(house, Exit.NOT_FOUND, "sessions", "end", session["id"])


def test_no_command_line_holds_the_token(house: RunningServer, tmp_path: Path) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}\n')
    browser.chmod(0o700)
    done = allod(house, "open", "--json", BROWSER=str(browser))
    made = json.loads(done.stdout)
    token = Path(made["file"]).read_text().partition("#token=")[2].partition('"')[0]
    assert len(token) > 30
    assert seen.read_text().strip() == Path(made["file"]).as_uri()
    assert token not in done.stdout + done.stderr + seen.read_text()
    assert made["opened"]
    assert lines(house, "open", BROWSER=str(browser)) == [f"Opened {made['url']} in the browser."]


def test_without_a_browser_or_a_server_open_says_what_to_do(house: RunningServer, home: Path) -> None:
    no_screen = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    if sys.platform == "linux":
        assert "allod open --print" in refused(house, Exit.UNEXPECTED, "open", **no_screen)
    assert "allod open --print" in refused(house, Exit.UNEXPECTED, "open", BROWSER="/bin/false")
    assert "allod serve" in refused(home, Exit.UNREACHABLE, "open", "--print")


def test_another_folders_server_on_the_usual_port_is_asked_but_never_for_a_secret(
    house: RunningServer, home: Path
) -> None:
    there = {"ALLOD_PORT": str(house.port)}
    assert "ALLOD_API_KEY" in refused(home, Exit.NOT_ALLOWED, "keys", **there)
    assert "No server is running" in refused(home, Exit.UNREACHABLE, "vault", "unlock", **there)
    assert told(home, "vault", **there)["slots"] != told(house, "vault")["slots"]


# egress


def test_what_may_reach_the_world_is_allowed_seen_and_denied(house: RunningServer) -> None:
    host = f"127.0.0.1:{house.port}"
    ask = f"/api/caller/ask?url={house.url}/health"
    assert post(house, ask, None).status == 403
    assert told(house, "egress") == {"offline": False, "grants": []}
    assert told(house, "egress", "allow", "caller", host, "--once")["once"]
    assert lines(house, "egress", "allow", "caller", host, "--purpose", "look") == [
        f"caller may reach {host} (purpose: look)."
    ]
    assert [row.split()[2:4] for row in lines(house, "egress")[2:]] == [["any", "once"], ["look", "always"]]
    assert post(house, ask, None).status == 200
    row, *older = lines(house, "egress", "log", "--extension", "caller")[1:]
    assert row.split()[2:8] == ["caller", "look", "GET", host, "allowed", "200"]
    assert [line.split()[6] for line in older] == ["ungranted"]
    assert len(told(house, "egress", "log", "--limit", "1")["entries"]) == 1
    assert told(house, "egress", "deny", "caller", host, "--purpose", "look")["denied"]["purpose"] == "look"
    assert lines(house, "egress", "deny", "caller", host) == [f"caller may no longer reach {host}."]
    assert post(house, ask, None).status == 403
    refused(house, Exit.NOT_FOUND, "egress", "deny", "caller", host)
    refused(house, Exit.NOT_FOUND, "egress", "allow", "nobody", host)
    refused(house, Exit.BAD_REQUEST, "egress", "allow", "caller", "http://a/b")


def test_everything_is_cut_off_and_allowed_again(house: RunningServer) -> None:
    assert lines(house, "egress", "offline", "on")[0].startswith("Offline: ")
    assert told(house, "egress", "offline") == {"offline": True}
    assert told(house, "egress")["offline"]
    assert told(house, "egress", "offline", "off") == {"offline": False}
    assert lines(house, "egress", "offline")[0].startswith("Online: ")
