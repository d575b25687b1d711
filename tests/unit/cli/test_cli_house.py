"""What is typed and shown by the commands for settings, jobs, locks: pure parts, and typed arguments."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from allod.cli import asking, jobs, settings
from allod.cli.failures import Exit, Failure, from_answer, of_kernel
from allod.cli.main import SECTIONS, _app
from allod.cli.options import parse_pairs, parse_value
from allod.cli.output import moment, show_facts, show_table
from allod.sdk.errors import AllodError, Conflict, Locked, StartFailed, WrongPassphrase


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("1338", 1338),
        ("true", True),
        ("null", None),
        ('["a"]', ["a"]),
        ('"5"', "5"),
        ("plain words", "plain words"),
        ("", ""),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("{broken", "{broken"),
    ],
)
def test_a_value_is_json_where_it_reads_as_such(typed: str, value: Any) -> None:
    assert parse_value(typed) == value


def test_pairs_may_have_any_name() -> None:
    assert parse_pairs(["model=x", "n=2", "text=a=b"]) == {"model": "x", "n": 2, "text": "a=b"}
    with pytest.raises(Failure, match="NAME=VALUE") as caught:
        parse_pairs(["n"])
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize("typed", ["server", ".port", "server.", ""])
def test_a_setting_has_two_names(typed: str) -> None:
    assert settings._parted("llamacpp.models") == ("llamacpp", "models")
    with pytest.raises(Failure) as caught:
        settings._parted(typed)
    assert caught.value.exit_code == Exit.USAGE


def test_the_nearest_setting_is_suggested() -> None:
    described = {"values": {"port": 1337, "host": []}}
    assert settings._no_such("server", "prot", described).fix == "Did you mean server.port?"
    assert settings._no_such("server", "colour", described).fix == "`allod settings server` lists them."


def job(**fields: Any) -> dict[str, Any]:
    whole = {"id": "j1", "extension": "notes", "kind": "import_notes", "title": "Import", "state": "running"}
    numbers = {"done": 0, "total": 0, "note": "", "result": None, "error": "", "fix": ""}
    return {**whole, **numbers, "created_at": 0.0, "changed_at": 0.0, **fields}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "Import · running"),
        ({"done": 1, "total": 4}, "Import · running · 25%"),
        ({"done": 5, "total": 4, "note": "nearly"}, "Import · running · 100% · nearly"),
        ({"done": 12.5}, "Import · running · 12.5"),
        ({"state": "paused", "done": 1, "total": 2}, "Import · paused · 50%"),
    ],
)
def test_how_far_a_job_is(fields: dict[str, Any], shown: str) -> None:
    assert jobs._line(job(**fields)) == shown


def test_a_job_that_was_not_done_fails_the_command() -> None:
    jobs._check(job(state="done"))
    with pytest.raises(Failure, match="The disk is full") as caught:
        jobs._check(job(state="failed", error="The disk is full.", fix="Free some space."))
    assert (caught.value.exit_code, caught.value.fix) == (Exit.UNEXPECTED, "Free some space.")
    with pytest.raises(Failure, match="cancelled") as caught:
        jobs._check(job(state="cancelled"))
    assert "allod jobs resume j1" in caught.value.fix


def test_facts_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_facts([("state", "failed"), ("note", ""), ("reason", "a\nb\x1b[31m")])
    assert capsys.readouterr().out == "state   failed\nreason  a\n        b[31m\n"
    show_table([], [])
    assert capsys.readouterr().out.strip() == ""


def test_a_moment_for_people() -> None:
    assert moment(None) == ""
    assert moment(0.0).startswith(("1970-01-01", "1969-12-31"))


def test_a_wrong_passphrase_is_not_answered_with_api_keys() -> None:
    body = {"detail": "No lock opens.", "fix": "Mind Caps Lock.", "code": WrongPassphrase.code}
    assert from_answer(401, body).fix == "Mind Caps Lock."
    assert "ALLOD_API_KEY" in from_answer(401, {**body, "code": "invalid_api_key"}).fix


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Locked("no", fix="so"), Exit.NOT_ALLOWED),
        (Conflict("no", fix="so"), Exit.BAD_REQUEST),
        (WrongPassphrase("no", fix="so"), Exit.NOT_ALLOWED),
        (StartFailed("no", fix="so"), Exit.UNEXPECTED),
    ],
)
def test_an_error_without_a_server_keeps_its_words(error: AllodError, code: Exit) -> None:
    failure = of_kernel(error)
    assert (failure.detail, failure.fix, failure.exit_code) == ("no", "so", code)


def test_a_secret_is_the_first_line_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" two words \r\nmore\n"))
    assert asking.secret("Passphrase: ") == " two words "
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(Failure) as caught:
        asking.secret("Passphrase: ")
    assert caught.value.exit_code == Exit.USAGE


def test_a_pipe_is_not_asked_whether_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    asking.confirm("Really?")
    assert sys.stdin.read() == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("dotcor", "doctor"),
        ("extension", "extensions"),
        ("vault unlok", "unlock"),
        ("jobs pasue x", "pause"),
        ("egress alow a b", "allow"),
    ],
)
def test_the_nearest_command_is_suggested(typed: str, meant: str) -> None:
    done = CliRunner().invoke(_app(), typed.split())
    assert done.exit_code == Exit.USAGE
    assert f"Did you mean '{meant}'" in done.output


@pytest.mark.parametrize(
    "typed",
    [
        "vault add door",
        "vault remove",
        "egress offline maybe",
        "egress log --limit 0",
        "egress allow notes",
        "settings set server.port",
        "settings set server.port 1 2",
        "jobs start notes",
        "keys create a --expires-in-days soon",
        "open --url",
    ],
)
def test_a_wrong_command_line_is_a_usage_error(typed: str) -> None:
    done = CliRunner().invoke(_app(), typed.split())
    assert done.exit_code == Exit.USAGE
    assert "Error: " in done.output


def test_help_is_short_and_every_command_is_in_it() -> None:
    shown = CliRunner().invoke(_app(), ["-h"]).output
    names = [name for _, commands in SECTIONS for name, _, _ in commands]
    assert len(names) == len(set(names)) == 24
    assert all(f"\n  {name} " in shown for name in names)
    assert max(map(len, shown.splitlines())) <= 80


def test_each_command_has_its_help() -> None:
    for _, commands in SECTIONS:
        for name, _, told in commands:
            shown = CliRunner().invoke(_app(), [name, "-h"]).output
            assert " ".join(told.split()) in " ".join(shown.split()), name
            assert "--install-completion" not in shown
