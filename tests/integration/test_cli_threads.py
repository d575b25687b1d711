"""Conversations in the terminal: chats that are threads, and the commands for them, on a real server."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.cli.failures import Exit
from allod.testing.server import RunningServer, free_port, running_server
from tests.command_line import COMMAND, Terminal, allod, at_terminal, environment, lines, refused, told
from tests.conftest import MODEL
from tests.http_client import busy_slots, get, post, request, wait_until, workers

C = "/api/conversational"
SHORT = ["--set", "temperature=0", "--set", "ignore_eos=true", "--set", "max_tokens=4"]
"""An answer that is cut after a few tokens."""
ENDLESS = ["--set", 'grammar=root ::= "la " root', "--set", "max_tokens=4000"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose threads are these tests' own. Titles would come at times of their own."""
    home = tmp_path_factory.mktemp("threads") / "home"
    with running_server(home, settings="[conversational]\ntitles = false\n") as running:
        yield running


def asked(server: RunningServer, *texts: str, options: tuple[str, ...] = ()) -> str:
    """The id of a new thread in which these questions were asked."""
    piped = "".join(f"{text}\n" for text in texts)
    done = allod(server, "chat", "--keep", "--json", *SHORT, *options, stdin=piped)
    assert (done.returncode, done.stderr) == (0, "")
    (thread,) = {json.loads(line)["thread"] for line in done.stdout.splitlines()}
    return str(thread)


def opened(server: RunningServer, thread: str) -> Any:
    reply = get(server, f"{C}/threads/{thread}")
    assert reply.status == 200
    return reply.json


def spoken(server: RunningServer, thread: str) -> list[tuple[str, str, str]]:
    """Who said what in the branch that is shown, and how it ended."""
    return [
        (each["role"], "".join(part["text"] for part in each["parts"]), each["status"])
        for each in opened(server, thread)["messages"]
    ]


def private_threads(server: RunningServer) -> list[str]:
    return [each["id"] for each in get(server, f"{C}/threads").json["threads"] if each["is_memory_only"]]


def history(server: RunningServer) -> str:
    return get(server, "/api/terminal/history").body.decode()


@contextmanager
def chatting(server: RunningServer, *arguments: str) -> Iterator[Terminal]:
    with at_terminal(server, "chat", *arguments) as terminal:
        yield terminal


def says(terminal: Terminal, text: str, seen: str) -> str:
    """Type a line, and wait for what comes of it and for the next prompt. What came before `seen`."""
    terminal.types(f"{text}\r")
    before = terminal.sees(seen)
    terminal.sees("> ")
    return before


def leaves(terminal: Terminal) -> None:
    terminal.types("\x04")
    assert terminal.process.wait(20) == 0


# in a pipe


def test_a_program_keeps_nothing_unless_it_asks_for_a_thread(house: RunningServer) -> None:
    before = get(house, f"{C}/threads").json["threads"]
    stateless = allod(house, "chat", "--json", *SHORT, stdin="Hello.\n")
    assert "thread" not in json.loads(stateless.stdout)
    assert get(house, f"{C}/threads").json["threads"] == before
    kept = allod(house, "chat", "--keep", *SHORT, stdin="Hello.\nAnd again.\n")
    (thread,) = [each["id"] for each in get(house, f"{C}/threads").json["threads"] if each not in before]
    assert kept.stderr == f"Kept: `allod chat --thread {thread}` goes on with it.\n"
    said = spoken(house, thread)
    assert [role for role, _, _ in said] == ["user", "assistant"] * 2
    assert kept.stdout.split() == f"{said[1][1]} {said[3][1]}".split()


def test_a_thread_is_gone_on_with_and_remembers(house: RunningServer) -> None:
    thread = asked(house, "My name is Ada.")
    first = opened(house, thread)["messages"][1]["usage"]["prompt_tokens"]
    more = told(house, "run", "--thread", thread, "What is my name?", "--max-tokens", "3", *SHORT[:4])
    assert (more["thread"], more["model"], more["finish_reason"]) == (thread, MODEL, "length")
    assert more["usage"]["prompt_tokens"] > first + 4
    assert more["first_token_s"] > 0
    done = allod(house, "chat", "--thread", thread, "--json", stdin="And mine?\n")
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 4  # what was set for it holds on
    assert done.stderr == ""
    assert [text for role, text, _ in spoken(house, thread) if role == "user"] == [
        "My name is Ada.", "What is my name?", "And mine?",
    ]  # fmt: skip
    assert opened(house, thread)["thread"]["parameters"]["max_tokens"] == 4  # not the 3 of one question


def test_errors_of_a_thread_have_their_exit_codes(house: RunningServer) -> None:
    thread = asked(house, "Hello.")
    assert "'nonsense'" in refused(
        house, Exit.BAD_REQUEST, "run", "--thread", thread, "hi", "--set", "nonsense=1"
    )
    assert "allod threads" in refused(house, Exit.NOT_FOUND, "run", "--thread", "thread_0", "hi")
    refused(house, Exit.NOT_FOUND, "chat", "--thread", "thread_0", stdin="hi\n")
    refused(house, Exit.NOT_FOUND, "chat", "--keep", "--model", "nobody", stdin="hi\n")
    assert "assistants" in refused(house, Exit.NOT_FOUND, "chat", "--assistant", "nobody", stdin="hi\n")
    assert "--system" in refused(house, Exit.USAGE, "run", "--thread", thread, "-s", "Be brief.", "hi")


def test_ctrl_c_ends_a_run_in_a_thread_and_keeps_what_came(house: RunningServer) -> None:
    thread = asked(house, "Hello.")
    process = subprocess.Popen(
        [*COMMAND, "run", "--thread", thread, "Sing.", *ENDLESS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(house.home, house.port, {}),
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == b"la "
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (Exit.INTERRUPTED, b"")
    wait_until(lambda: busy_slots(house) == 0)
    role, text, status = spoken(house, thread)[-1]
    assert (role, text[:3], status) == ("assistant", "la ", "stopped")


# at a terminal


def test_a_chat_is_kept_stopped_and_gone_on_with(house: RunningServer, tmp_path: Path) -> None:
    with chatting(house, *ENDLESS) as terminal:
        assert MODEL in terminal.sees("/help")
        terminal.sees("> ")
        terminal.types("Sing.\r")
        terminal.sees("la la la")
        assert busy_slots(house) == 1
        terminal.types("\x03")
        terminal.sees("(stopped)")
        wait_until(lambda: busy_slots(house) == 0)
        terminal.sees("> ")
        says(terminal, "/set max_tokens 3", "max_tokens = 3")
        assert "la" in says(terminal, "/continue", "(cut: ")
        assert "la" in says(terminal, "/again", "(cut: ")
        assert "la" in says(terminal, "再见", "(cut: ")
        says(terminal, f"/save {tmp_path}/talk.json", "Saved to")
        says(terminal, f"/save {tmp_path}/talk.md", "Saved to")
        says(terminal, "/stats", "tokens/s")
        leaves(terminal)
        terminal.sees("Kept: `allod chat --thread ")
    (whole,) = json.loads((tmp_path / "talk.json").read_text("utf-8"))["threads"]
    assert [each["role"] for each in whole["messages"]].count("assistant") == 3  # /again made another version
    assert "再见" in (tmp_path / "talk.md").read_text("utf-8")
    thread = get(house, f"{C}/threads?limit=1").json["threads"][0]
    assert (thread["messages"], thread["parameters"]["max_tokens"]) == (5, 3)
    assert [status for _, _, status in spoken(house, thread["id"])] == ["done", "length"] * 2
    assert "再见" in history(house)


def test_an_error_is_told_and_the_thread_goes_on(house: RunningServer) -> None:
    with chatting(house, *SHORT) as terminal:
        terminal.sees("> ")
        for typed, seen in [
            ("/nonsense", "There is no command /nonsense."),
            ("/again", "There is no answer yet."),
            ("/model nobody", "There is no model 'nobody'."),
            ("/assistant nobody", "There is no assistant 'nobody'."),
            ("/assistant", "* Allod"),
            ("/system Be brief.", "These are the instructions"),
            ("/set nonsense 1", "nonsense = 1"),
            ("hi", "does not know the field 'nonsense'"),
            ("/set nonsense", "max_tokens = 4"),
            ("/again", "(cut: "),
            ("/reset", "The one before is kept: thread_"),
            ("/model", f"* {MODEL}"),
            ("Anew.", "(cut: "),
        ]:
            says(terminal, typed, seen)
        terminal.types("/exit\r")
        assert terminal.process.wait(20) == 0
    newest, before = get(house, f"{C}/threads?limit=2").json["threads"]
    assert newest["instructions"] == before["instructions"] == "Be brief."
    assert spoken(house, newest["id"])[0][1] == "Anew."
    assert spoken(house, before["id"])[0][1] == "hi"


def test_an_answer_outlives_the_terminal_and_is_taken_up(house: RunningServer) -> None:
    with chatting(house, *ENDLESS) as terminal:
        terminal.sees("> ")
        terminal.types("Sing on.\r")
        terminal.sees("la la la")
        terminal.process.kill()
        terminal.process.wait()
    assert get(house, f"{C}/threads?limit=1").json["threads"][0]["run"]["state"] == "writing"
    with chatting(house, "--last") as terminal:
        terminal.sees("Sing on.")
        terminal.sees("la la la la la")
        terminal.types("\x03")
        terminal.sees("(stopped)")
        terminal.sees("> ")
        says(terminal, "/set", "max_tokens = 4000")
        leaves(terminal)


def test_a_chat_outlives_its_server(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    with running_server(home, port=port) as first, chatting(first, *ENDLESS) as terminal:
        terminal.sees("> ")
        terminal.types("Sing.\r")
        terminal.sees("la la la")
        workers_left = first.descendants()
        first.process.kill()
        first.process.wait()
        psutil.wait_procs(workers_left, timeout=20)  # they end with it
        with running_server(home, port=port) as second:
            terminal.sees("The answer was interrupted")
            terminal.sees("> ")
            (question, answer) = spoken(second, get(second, f"{C}/threads").json["threads"][0]["id"])
            assert (question[1], answer[2]) == ("Sing.", "interrupted")
            terminal.types("/continue\r")
            terminal.sees("la la la")
            terminal.types("\x03")
            terminal.sees("(stopped)")
            whole = spoken(second, get(second, f"{C}/threads").json["threads"][0]["id"])[-1][1]
    assert whole.startswith(answer[1])
    assert len(whole) > len(answer[1])


def test_an_assistant_answers_and_can_be_changed(house: RunningServer) -> None:
    told(
        house,
        "assistants",
        "create",
        "Ana",
        "-i",
        "You are Ana.",
        "--set",
        "max_tokens=2",
        "--set",
        "ignore_eos=true",
    )
    told(house, "assistants", "create", "Secret", "--memory-only")
    thread = asked(house, "Hello.", options=("--assistant", "ana"))
    answer = opened(house, thread)["messages"][-1]
    assert answer["assistant"] == told(house, "assistants", "show", "Ana")["id"]
    with chatting(house, "--thread", thread) as terminal:
        assert "Ana · " in terminal.sees("/help")
        terminal.sees("> ")
        says(terminal, "/system", "There are no instructions.")
        says(terminal, "/assistant Secret", "never kept")
        says(terminal, "/assistant All", "Allod answers from now on.")
        says(terminal, "Who are you?", "(cut: ")
        leaves(terminal)
    assert (
        opened(house, thread)["messages"][-1]["assistant"] == told(house, "assistants", "show", "Allod")["id"]
    )


# memory-only


def test_a_memory_only_chat_is_gone_with_all_that_was_typed(house: RunningServer) -> None:
    before = get(house, f"{C}/threads").json["threads"]
    with chatting(house, "--memory-only", *SHORT) as terminal:
        assert "memory-only" in terminal.sees("/help")
        terminal.sees("> ")
        says(terminal, "xylophone", "(cut: ")
        assert len(private_threads(house)) == 1
        says(terminal, "/reset", "begins anew")
        assert private_threads(house) == []
        says(terminal, "xylophone again", "(cut: ")
        leaves(terminal)
        assert "Kept" not in terminal.sees("\n", 1)
    assert get(house, f"{C}/threads").json["threads"] == before
    assert "xylophone" not in history(house) + house.log_text()
    assert {row["purpose"] for row in workers(house) if row["state"] == "ready"} == {"chat"}


@pytest.mark.parametrize("end", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_memory_only_chat_is_gone_however_it_ends(house: RunningServer, end: signal.Signals) -> None:
    arguments = ["--memory-only", "--json", *ENDLESS]
    process = subprocess.Popen(
        [*COMMAND, "chat", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment(house.home, house.port, {}),
    )
    assert process.stdin is not None
    with process.stdin as typed:
        typed.write(b"Sing.\n")
        typed.flush()
        wait_until(lambda: any(each["run"] for each in get(house, f"{C}/threads").json["threads"]))
        process.send_signal(end)
        assert process.wait(20) == 128 + end
    assert private_threads(house) == []


def test_a_closed_window_ends_a_memory_only_chat(house: RunningServer) -> None:
    with chatting(house, "--memory-only", *ENDLESS) as terminal:
        terminal.sees("> ")
        terminal.types("Sing.\r")
        terminal.sees("la la la")
        os.close(terminal._end)
        terminal._end = os.open(os.devnull, os.O_RDONLY)
        terminal.process.wait(20)
    assert private_threads(house) == []


def test_an_assistant_whose_chats_leave_no_trace_makes_a_chat_memory_only(house: RunningServer) -> None:
    told(house, "assistants", "create", "Confidant", "--memory-only")
    before = get(house, f"{C}/threads").json["threads"]
    done = allod(house, "chat", "--assistant", "confidant", "--json", *SHORT, stdin="Hello.\n")
    assert get(house, f"{C}/threads/{json.loads(done.stdout)['thread']}").status == 404
    told(house, "assistants", "default", "Confidant")
    with chatting(house, *SHORT) as terminal:
        assert "memory-only" in terminal.sees("/help")
        terminal.sees("> ")
        says(terminal, "glockenspiel", "(cut: ")
        leaves(terminal)
    told(house, "assistants", "default", "Allod")
    assert "glockenspiel" not in history(house)
    with chatting(house, *SHORT) as terminal:
        terminal.sees("> ")
        says(terminal, "/assistant Confidant", "never kept")
        leaves(terminal)
    assert get(house, f"{C}/threads").json["threads"] == before


# the commands


def test_threads_are_listed_by_place_project_and_tag(house: RunningServer) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    thread, other = asked(house, long), asked(house, "Another.")
    project = post(house, f"{C}/projects", {"name": "The House"}).json["id"]
    marks = {"is_favourite": True, "tags": ["trip"], "project": project}
    assert request(house, "PATCH", f"{C}/threads/{thread}", marks).status == 200
    head, *rows = lines(house, "threads")
    assert head.split() == ["ID", "TITLE", "MESSAGES", "CHANGED", "MARKS"]
    (row,) = [row for row in rows if row.startswith(thread)]
    assert f"{long[:60]}… " in row
    assert row.endswith("favourite, #trip")
    (row,) = lines(house, "threads", "list", "--project", "the house", "--tag", "trip")[1:]
    assert row.startswith(thread)
    assert "The House" in refused(house, Exit.NOT_FOUND, "threads", "list", "--project", "nothing")
    request(house, "PATCH", f"{C}/threads/{other}", {"is_archived": True, "title": "Old tales"})
    assert "Old tales" in lines(house, "threads", "list", "--archive")[1]
    assert other not in "".join(lines(house, "threads"))
    assert "--limit 4" in allod(house, "threads", "list", "-n", "1").stderr
    assert len(told(house, "threads", "list", "-n", "1")["threads"]) == 1
    assert "allod chat" in allod(house, "threads", "list", "--tag", "nothing").stderr
    refused(house, Exit.USAGE, "threads", "list", "--archive", "--trash")


def test_a_thread_is_shown_from_its_end(house: RunningServer) -> None:
    thread = asked(house, "First.", "Second.", "Third.")
    told(house, "threads", "rename", thread, "Counting")
    shown = allod(house, "threads", "show", thread, "-n", "2")
    assert shown.stdout.startswith("# Counting\n\n## You · ")
    assert "Third." in shown.stdout and "Second." not in shown.stdout
    assert f"## {MODEL} · " in shown.stdout
    assert "cut at its longest length" in shown.stdout
    before = shown.stderr.partition("--before ")[2].partition(",")[0]
    earlier = allod(house, "threads", "show", thread, "-n", "2", "--before", before)
    assert "Second." in earlier.stdout and "Third." not in earlier.stdout
    whole = allod(house, "threads", "show", thread, "--all")
    assert whole.stderr == ""
    assert [each for each in ("First.", "Second.", "Third.") if each in whole.stdout] == [
        "First.", "Second.", "Third.",
    ]  # fmt: skip
    facts = told(house, "threads", "show", thread, "-n", "3")
    assert (facts["thread"]["title"], len(facts["messages"]), facts["has_more"]) == ("Counting", 3, True)
    refused(house, Exit.NOT_FOUND, "threads", "show", "thread_0")
    with at_terminal(house, "threads", "show", thread) as terminal:
        assert "#" not in terminal.sees("First.")


def test_words_are_found_and_marked(house: RunningServer) -> None:
    thread = asked(house, "A grey zebrafish lives in 北京动物园.")
    asked(house, "The zebrafish is grey.")
    newest, _, _, found = lines(house, "threads", "search", "zebrafish", "grey", "--role", "user")
    assert " · You · " in newest
    assert found == "  A grey zebrafish lives in 北京动物园."
    assert thread in lines(house, "threads", "search", "grey zebrafish")[0]  # a phrase
    assert len(told(house, "threads", "search", "动物", "--role", "user")["hits"]) == 1
    assert told(house, "threads", "search", "zebrafish", "--until", "2020-01-01")["hits"] == []
    assert len(told(house, "threads", "search", "zebrafish lives", "--best", "--thread", thread)["hits"]) > 0
    assert allod(house, "threads", "search", "quetzalcoatl").stderr == "Nothing was found.\n"
    refused(house, Exit.USAGE, "threads", "search", "zebrafish", "--since", "yesterday")
    refused(house, Exit.NOT_FOUND, "threads", "search", "zebrafish", "--assistant", "nobody")
    with at_terminal(house, "threads", "search", "zebrafish", "--thread", thread) as terminal:
        terminal.process.wait(20)
        assert b"grey \x1b[1mzebrafish\x1b[0m lives" in os.read(terminal._end, 65536)


def test_a_thread_goes_to_the_trash_and_comes_back_or_is_gone_for_good(house: RunningServer) -> None:
    first, second = asked(house, "First."), asked(house, "Second.")
    assert f"allod threads restore {first}" in lines(house, "threads", "delete", first)[0]
    assert first in "".join(lines(house, "threads", "list", "--trash"))
    assert lines(house, "threads", "restore", first) == [f"Brought back: {first}"]
    assert first in "".join(lines(house, "threads"))
    with at_terminal(house, "threads", "delete", "--forever", first, second) as terminal:
        terminal.sees("Delete 2 for good? [y/N]")
        terminal.types("n\r")
        terminal.sees("Nothing was changed.")
    assert get(house, f"{C}/threads/{first}").status == 200
    gone = told(house, "threads", "delete", "--forever", first, second)
    assert gone == {"deleted": [first, second], "trashed": []}
    assert get(house, f"{C}/threads/{first}").status == get(house, f"{C}/threads/{second}").status == 404
    refused(house, Exit.NOT_FOUND, "threads", "delete", first)


def test_a_thread_is_exported_and_imported(house: RunningServer, tmp_path: Path) -> None:
    thread = asked(house, "# A heading?")
    told(house, "threads", "rename", thread, "Headings")
    files = {ending: tmp_path / f"talk.{ending}" for ending in ("md", "html", "json")}
    for file in files.values():
        assert lines(house, "threads", "export", thread, str(file)) == [f"Wrote {file}."]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert files["md"].read_text("utf-8").startswith("# Headings\n")
    assert files["html"].read_text("utf-8").startswith("<!doctype html>")
    assert allod(house, "threads", "export", thread).stdout == files["md"].read_text("utf-8")
    assert "exists already" in refused(house, Exit.USAGE, "threads", "export", thread, str(files["md"]))
    assert told(house, "threads", "export", thread, str(files["md"]), "--force", "-f", "json")["size_bytes"]
    (made,) = told(house, "threads", "import", str(files["json"]))["threads"]
    assert made != thread
    assert spoken(house, made) == spoken(house, thread)
    everything = allod(house, "threads", "export", "--all").stdout
    assert {thread["title"] for thread in json.loads(everything)["threads"]} >= {"Headings"}
    piped = allod(house, "threads", "import", "-", stdin=files["json"].read_text("utf-8"))
    assert piped.stdout.startswith("Took in 1:\nthread_")


def test_what_cannot_be_exported_or_imported_is_said(house: RunningServer, tmp_path: Path) -> None:
    thread, file = asked(house, "Hello."), tmp_path / "file.json"
    refused(house, Exit.USAGE, "threads", "export")
    refused(house, Exit.NOT_FOUND, "threads", "export", "thread_0", str(file))
    assert not list(tmp_path.iterdir())
    refused(house, Exit.UNEXPECTED, "threads", "export", thread, str(tmp_path / "no/such.md"))
    assert "cannot be read" in refused(house, Exit.USAGE, "threads", "import", str(file))
    file.write_text("{broken")
    assert "is not JSON" in refused(house, Exit.USAGE, "threads", "import", str(file))
    file.write_text('{"allod": "assistant"}')
    assert "allod threads export" in refused(house, Exit.BAD_REQUEST, "threads", "import", str(file))


def test_a_key_keeps_a_conversation_if_it_may(house: RunningServer) -> None:
    made = [
        allod(house, "keys", "create", "key", *rights).stdout.strip()
        for rights in ([], ["--right", "conversational", "--right", "chat"])
    ]
    plain, able = ({"ALLOD_URL": house.url, "ALLOD_API_KEY": key} for key in made)
    message = refused(house, Exit.NOT_ALLOWED, "chat", "--keep", stdin="Hello.\n", **plain)
    assert message.endswith("\n`allod chat --stateless` talks without keeping anything.\n")
    assert allod(house, "chat", "--json", *SHORT, stdin="Hello.\n", **plain).returncode == 0
    done = allod(house, "chat", "--keep", "--json", *SHORT, stdin="Hello.\n", **able)
    assert len(spoken(house, json.loads(done.stdout)["thread"])) == 2


def test_without_the_extensions_a_chat_says_what_still_works(tmp_path: Path) -> None:
    with running_server(tmp_path / "home") as alone:
        told(alone, "extensions", "disable", "assistant")
        assert len(spoken(alone, asked(alone, "Hello."))) == 2
        told(alone, "extensions", "disable", "conversational")
        message = refused(alone, Exit.NOT_FOUND, "chat", "--keep", stdin="Hello.\n")
        assert "keeps no conversations" in message
        assert "allod chat --stateless" in message
        with chatting(alone, "--stateless", *SHORT) as terminal:
            terminal.sees("> ")
            says(terminal, "Hello.", "(cut: ")
            leaves(terminal)
