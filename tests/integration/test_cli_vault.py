"""`allod vault`, `backup` and `restore` on real servers: locks, locked servers, and what a person types."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.cli.failures import Exit
from allod.testing.server import RunningServer, running_server
from tests.command_line import allod, at_terminal, lines, refused, told

QUIET = "[server]\npreload = false\n"
WORDS = "correct horse battery"


@pytest.fixture
def locked(home: Path) -> Iterator[RunningServer]:
    """A server whose store was made by `vault init`."""
    made = allod(home, "vault", "init", stdin=f"{WORDS}\n")
    assert (made.returncode, made.stdout.startswith("Made the key of")) == (0, True), made.stderr
    with running_server(home, settings=QUIET) as running:
        yield running


def test_locks_are_listed_added_and_removed(home: Path) -> None:
    with running_server(home, settings=QUIET) as server:
        state = told(server, "vault")
        assert (state["is_open"], state["opens_elsewhere"]) == (True, False)
        assert "allod vault add recovery" in allod(server, "vault").stderr
        made = allod(server, "vault", "add", "recovery")
        (code,) = made.stdout.splitlines()
        assert [len(part) for part in code.split("-")] == [4] * 8
        assert "not shown again" in made.stderr
        added = allod(server, "vault", "add", "passphrase", stdin=f"{WORDS}\n")
        assert added.stdout.startswith("Added the lock slot_")
        assert "8 letters" in refused(server, Exit.BAD_REQUEST, "vault", "add", "passphrase", stdin="short\n")
        refused(server, Exit.USAGE, "vault", "add", "passphrase")
        refused(server, Exit.BAD_REQUEST, "vault", "add", "keyfile")
        slots = told(server, "vault", "slots")["slots"]
        assert [slot["kind"] for slot in slots] == ["keyfile", "recovery", "passphrase"]
        assert lines(server, "vault", "slots")[0].split() == ["ID", "KIND", "CREATED", "PROTECTS"]
        assert told(server, "vault", "rotate") == {"rotated": True}
        assert lines(server, "vault", "rotate", "--yes")[0].startswith("Everything is encrypted")
        assert told(server, "vault", "remove", slots[0]["id"]) == {"removed": slots[0]["id"]}
        refused(server, Exit.NOT_FOUND, "vault", "remove", slots[0]["id"])
        told(server, "vault", "remove", slots[1]["id"])
        assert "nobody could open" in refused(server, Exit.BAD_REQUEST, "vault", "remove", slots[2]["id"])
        assert lines(server, "vault", "unlock") == ["The store was open already."]
    with running_server(home) as server:
        assert lines(server, "vault")[0] == "The store is locked."
        assert allod(server, "vault", "unlock", stdin=f"{WORDS}\n").stdout == "The store is open.\n"


COMMANDS_OF_THE_STORE = [
    "models",
    "extensions",
    "extensions enable notes",
    "settings",
    "settings set server.max_waiting 9",
    "jobs",
    "jobs watch x",
    "events",
    "keys",
    "keys create x",
    "sessions",
    "open",
    "egress",
    "egress offline on",
    "vault add recovery",
    "vault remove slot_1",
    "vault rotate",
    "doctor",
    "system",
    "run hi",
    "load",
    "ps",
]


def test_a_locked_server_is_told_of_and_unlocked(locked: RunningServer) -> None:
    for command in COMMANDS_OF_THE_STORE:
        said = refused(locked, Exit.NOT_ALLOWED, *command.split())
        assert "The store is locked." in said, command
        assert "allod vault unlock" in said, command
    state = told(locked, "vault")
    assert (state["is_open"], [slot["kind"] for slot in state["slots"]]) == (False, ["passphrase"])
    wrong = refused(locked, Exit.NOT_ALLOWED, "vault", "unlock", stdin="something else\n")
    assert "Caps Lock" in wrong
    assert "ALLOD_API_KEY" not in wrong
    assert "next try" in refused(locked, Exit.BUSY, "vault", "unlock", stdin="something else\n")
    refused(locked, Exit.USAGE, "vault", "unlock")


def test_a_locked_store_is_unlocked_at_a_terminal(locked: RunningServer) -> None:
    with at_terminal(locked, "vault", "unlock") as terminal:
        terminal.sees("Passphrase or recovery code: ")
        terminal.types(f"{WORDS}\n")
        assert WORDS not in terminal.sees("The store is open.")
        assert terminal.process.wait(20) == 0
    assert told(locked, "keys") == {"keys": []}
    assert told(locked, "vault", "unlock") == {"is_open": True, "was_open": True}


def test_a_locked_store_without_a_server_says_where_to_unlock_it(home: Path) -> None:
    assert json.loads(allod(home, "vault", "init", "--json", stdin=WORDS).stdout) == {
        "data_folder": str(home)
    }
    for command in (["jobs"], ["run", "hi"], ["vault", "rotate"]):
        said = refused(home, Exit.NOT_ALLOWED, *command)
        assert "allod serve" in said
        assert "allod vault unlock" in said
    assert told(home, "vault")["is_open"] is False
    assert "allod serve" in refused(home, Exit.UNREACHABLE, "vault", "unlock")


def test_a_store_is_made_once_and_by_a_strong_passphrase(home: Path) -> None:
    done = allod(home, "vault", "init", stdin="short\n")
    assert (done.returncode, done.stdout) == (Exit.BAD_REQUEST, "")
    with at_terminal(home, "vault", "init") as terminal:
        terminal.sees("New passphrase: ")
        terminal.types(f"{WORDS}\n")
        terminal.sees("Once more: ")
        terminal.types("another one\n")
        terminal.sees("two different passphrases")
        assert terminal.process.wait(20) == Exit.USAGE
    assert not (home / "keyslots.json").exists()
    with at_terminal(home, "vault", "init") as terminal:
        for question in ("New passphrase: ", "Once more: "):
            terminal.sees(question)
            terminal.types(f"{WORDS}\n")
        terminal.sees("Made the key of")
        assert terminal.process.wait(20) == 0
    kept = (home / "keyslots.json").read_bytes()
    done = allod(home, "vault", "init", stdin="something else\n")
    assert done.returncode == Exit.BAD_REQUEST
    assert (home / "keyslots.json").read_bytes() == kept


def test_a_change_of_the_root_is_asked_for_at_a_terminal(locked: RunningServer) -> None:
    assert allod(locked, "vault", "unlock", stdin=WORDS).returncode == 0
    for answer, seen, code in (
        ("n", "Nothing was changed.", Exit.UNEXPECTED),
        ("y", "under a new key", Exit.OK),
    ):
        with at_terminal(locked, "vault", "rotate") as terminal:
            terminal.sees("[y/N]")
            terminal.types(f"{answer}\n")
            terminal.sees(seen)
            assert terminal.process.wait(20) == code


def test_a_recovery_code_opens_the_store_however_it_is_typed(locked: RunningServer) -> None:
    assert allod(locked, "vault", "unlock", stdin=f"{WORDS}\n").returncode == 0
    code = told(locked, "vault", "add", "recovery")["code"]
    home = locked.home
    locked.process.send_signal(signal.SIGINT)
    locked.process.wait(20)
    with running_server(home) as server:
        given = code.replace("-", " ").lower()
        assert json.loads(allod(server, "vault", "unlock", "--json", stdin=given).stdout) == {
            "is_open": True,
            "was_open": False,
        }


def test_a_backup_is_made_and_put_back(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.backup"
    told(home, "settings", "set", "server.max_waiting", "9")
    assert told(home, "backup", str(file))["opens_elsewhere"] is False
    told(home, "settings", "set", "server.max_waiting", "10")
    assert "--force" in refused(home, Exit.USAGE, "backup", str(file))
    assert "created_at" in told(home, "restore", str(file))
    assert told(home, "settings", "get", "server.max_waiting")["value"] == 9
