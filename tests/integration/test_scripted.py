"""Faults and corners of the protocol, played by a scripted worker through a real server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.testing.scripted import install
from allod.testing.server import RunningServer, running_server
from tests.http_client import (
    CHAT,
    busy_slots,
    chat,
    frames,
    frames_in,
    get,
    opened,
    post,
    streamed_text,
    user,
    wait_until,
    worker_pid,
    workers,
)

SECRET = "/home/someone/models/secret.gguf"
ENGINE_TEXT = f"ggml_assert failed at {SECRET}"
APART: dict[str, Any] = {"wait_s": 0.05}
OPEN: list[Any] = ["Once ", APART]
ERROR = {"error": {"code": 500, "message": ENGINE_TEXT, "type": "server_error"}}
CALL = {"name": "look_up", "arguments": '{"word": "allod"}'}

ANSWERS: dict[str, list[Any]] = {
    "error later": [*OPEN, ERROR],
    "error at once": [ERROR],
    "error after text": ["Once ", ERROR],
    "full": [*OPEN, {"error": {"code": 500, "message": "Context size has been exceeded."}}],
    "ends early": [*OPEN, {"do": "end"}],
    "cut": [*OPEN, {"do": "cut"}],
    "dies": [*OPEN, {"do": "die"}],
    "broken JSON": [*OPEN, {"raw": f'data: {{"choices": [{{{SECRET}\n\n'}, APART],
    "broken HTTP": [*OPEN, {"raw": "\n\n"}, {"do": "cut"}],
    "not our frames": [*OPEN, {"raw": 'data: {"surprise": 1}\n\n'}, APART, "upon", APART],
    "torn": [
        "Once ",
        {"raw": 'data: {"choices":[{"index":0,"del'},
        APART,
        {"raw": 'ta":{"content":"upon"}}]}\n\n'},
    ],
    "refuses": [{"status": 400, "body": {"error": {"code": 400, "message": ENGINE_TEXT}}}],
    "no JSON": [{"status": 500, "body": SECRET}],
    "too long": [
        {
            "status": 400,
            "body": {
                "error": {
                    **{"code": 400, "message": ENGINE_TEXT, "type": "exceed_context_size_error"},
                    **{"n_prompt_tokens": 9000, "n_ctx": 8192},
                }
            },
        }
    ],
    "reads long": [{"progress": [0, 900]}, {"wait_s": 2}, {"progress": [900, 900]}, "Done."],
    "thinks": [{"reasoning": "Hm"}, {"reasoning": "m."}, APART, "Yes."],
    "calls": [{"call": CALL}, {"finish": "tool_calls"}],
    "streams on": [{"repeat": 2000, "steps": ["word ", {"wait_s": 0.02}]}],
    "floods": [{"repeat": 40_000, "steps": ["x" * 500, {"wait_s": 0}]}],
}


def settings(program: Path, more: str = "", server: str = "") -> str:
    return f'[server]\n{server}\n[llamacpp]\nbinary = "{program}"\n{more}'


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server whose worker plays all answers of this file that leave it alive."""
    folder = tmp_path_factory.mktemp("scripted")
    program = install(folder / "program", {"answers": ANSWERS})
    with running_server(folder / "home", settings=settings(program)) as running:
        yield running


def tail(server: RunningServer, question: str) -> tuple[str, dict[str, Any]]:
    """The text that came in a stream before its error, and that error. Asserts that nothing of the engine's came."""
    reply = post(server, CHAT, {"messages": user(question), "stream": True})
    assert reply.status == 200, reply.body
    assert b"[DONE]" not in reply.body
    assert SECRET.encode() not in reply.body
    assert b"ggml" not in reply.body
    *before, last = frames_in(reply.body)
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code", "source"}
    return streamed_text(before), last["error"]


# errors in mid-stream


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("error later", "engine_failed"),
        ("full", "engine_failed"),
        ("ends early", "engine_gone"),
        ("cut", "engine_gone"),
    ],
)
def test_a_fault_in_mid_stream_becomes_an_error_frame_of_ours(
    scripted: RunningServer, question: str, code: str
) -> None:
    text, error = tail(scripted, question)
    assert text == "Once "
    assert (error["code"], error["source"], error["type"]) == (code, "engine", "server_error")
    assert error["message"]


@pytest.mark.parametrize(
    "question",
    ["error later", "error at once", "error after text", "ends early", "cut", "refuses", "no JSON"],
)
def test_the_same_faults_in_a_plain_answer_have_a_status(scripted: RunningServer, question: str) -> None:
    reply = chat(scripted, question)
    assert reply.status == (400 if question == "refuses" else 502)
    assert reply.error["code"].startswith("engine_") or reply.status == 400
    assert SECRET not in str(reply.json)
    assert "ggml" not in str(reply.json)


@pytest.mark.parametrize("question", ["error at once", "refuses", "no JSON"])
def test_a_fault_before_any_text_keeps_its_status_in_a_stream_too(
    scripted: RunningServer, question: str
) -> None:
    reply = chat(scripted, question, stream=True)
    assert reply.status == (400 if question == "refuses" else 502)
    assert SECRET not in str(reply.json)


def test_a_prompt_over_the_context_says_both_numbers(scripted: RunningServer) -> None:
    for stream in (True, False):
        reply = chat(scripted, "too long", stream=stream)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert "9000" in reply.error["message"]
        assert "8192" in reply.error["message"]


def test_a_broken_frame_spoils_no_other_request(scripted: RunningServer) -> None:
    plain = chat(scripted, "broken JSON")
    assert plain.status in (500, 502)
    assert SECRET not in str(plain.json)
    assert chat(scripted, "thinks").status == 200


def test_frames_torn_between_two_reads_are_put_together(scripted: RunningServer) -> None:
    assert chat(scripted, "torn").text == "Once upon"
    assert streamed_text(frames(scripted, CHAT, {"messages": user("torn")})) == "Once upon"


def test_nothing_of_the_engine_reaches_the_log(scripted: RunningServer) -> None:
    for question in ("error later", "refuses", "no JSON", "broken JSON"):
        chat(scripted, question)
    assert SECRET not in scripted.log_text()


# what a stream is made of


def test_headers_leave_before_the_prompt_is_read(scripted: RunningServer) -> None:
    with opened(scripted, CHAT, {"messages": user("reads long"), "stream": True}) as connection:
        began = time.monotonic()
        answer = connection.getresponse()
        assert answer.readline().startswith(b":")
        assert time.monotonic() - began < 1.5
        assert b"Done." in answer.read()


def test_progress_is_told_to_those_who_ask(scripted: RunningServer) -> None:
    body = {"messages": user("reads long")}
    told = frames(scripted, CHAT, {**body, "return_progress": True})
    assert [frame["prompt_progress"]["processed"] for frame in told if "prompt_progress" in frame] == [0, 900]
    assert all("prompt_progress" not in frame for frame in frames(scripted, CHAT, body))


def test_a_plain_answer_is_gathered_from_the_stream(scripted: RunningServer) -> None:
    reply = chat(scripted, "thinks")
    message = reply.json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hmm.")
    called = chat(scripted, "calls").json["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["tool_calls"][0]["function"] == CALL
    assert reply.json["usage"]["completion_tokens"] == 3


def test_usage_in_a_stream(scripted: RunningServer) -> None:
    body = {"messages": user("thinks"), "stream_options": {"include_usage": True}}
    assert frames(scripted, CHAT, body)[-1]["usage"]["completion_tokens"] == 3


# clients


def test_a_client_that_leaves_closes_the_connection_to_the_worker(scripted: RunningServer) -> None:
    for stream in (True, False):
        with opened(scripted, CHAT, {"messages": user("streams on"), "stream": stream}):
            wait_until(lambda: busy_slots(scripted) == 1)
        assert wait_until(lambda: busy_slots(scripted) == 0) < 1
    assert workers(scripted)[0]["running"] == 0


def test_a_slow_client_holds_the_worker_back_and_not_in_memory(scripted: RunningServer) -> None:
    """The answer is some 25 MB; whoever does not read it must not make the server keep it."""
    before = psutil.Process(scripted.process.pid).memory_info().rss
    with SlowReader(scripted, {"messages": user("floods"), "stream": True}) as reader:
        wait_until(lambda: busy_slots(scripted) == 1)
        time.sleep(2)
        assert psutil.Process(scripted.process.pid).memory_info().rss - before < 10_000_000
        assert busy_slots(scripted) == 1
        received = 0
        while data := reader.recv(1 << 20):
            received += len(data)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert received > 20_000_000


class SlowReader:
    """A raw connection with a small buffer of its own, whose answer nobody has read yet."""

    def __init__(self, server: RunningServer, body: dict[str, Any]) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._socket.settimeout(60)
        self._socket.connect(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        self._socket.sendall(head.encode() + data)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_a_full_queue_is_429_with_retry_after(tmp_path: Path, home: Path) -> None:
    program = install(tmp_path / "program", {"answers": ANSWERS})
    with running_server(home, settings=settings(program, "slots = 1", "max_waiting = 1")) as running:
        body = {"messages": user("streams on"), "stream": True, "max_tokens": 8}
        chat(running)
        with opened(running, CHAT, body):
            wait_until(lambda: busy_slots(running) == 1)
            with opened(running, CHAT, body):
                wait_until(lambda: workers(running)[0]["waiting"] == 1)
                for stream in (True, False):
                    refused = chat(running, stream=stream)
                    assert (refused.status, refused.error["code"]) == (429, "queue_full")
                    assert refused.error["source"] == "scheduler"
                    assert int(refused.headers["retry-after"]) >= 1


# the worker's life


def test_a_worker_that_dies_in_mid_answer_is_replaced(tmp_path: Path, home: Path) -> None:
    program = install(tmp_path / "program", {"answers": ANSWERS})
    with running_server(home, settings=settings(program)) as running:
        chat(running)
        before = worker_pid(running)
        text, error = tail(running, "dies")
        assert (text, error["code"]) == ("Once ", "engine_gone")
        assert chat(running).status == 200
        assert worker_pid(running) != before


HANGS = {
    "hangs": [
        {"progress": [0, 9]},
        {"wait_s": 0},
        {"progress": [9, 9]},
        "Once ",
        {"wait_s": 0},
        {"do": "hang"},
    ],
    "stands still": ["Once ", {"wait_s": 0}, {"do": "deaf"}],
    "never begins": [
        {"progress": [0, 9]},
        {"wait_s": 0},
        {"progress": [9, 9]},
        {"wait_s": 0},
        {"do": "hang"},
    ],
    "slow batches": [
        {"progress": [0, 100]},
        {"wait_s": 3},
        {"progress": [50, 100]},
        {"wait_s": 3},
        {"progress": [100, 100]},
        "Done.",
    ],
    "one slow batch": [{"wait_s": 4}, "Done."],
}


def hang_settings(tmp_path: Path) -> str:
    program = install(tmp_path / "program", {"answers": HANGS})
    return settings(program, "hang_timeout_s = 1\nbatch_tokens = 32")


@pytest.mark.parametrize("question", ["stands still", "never begins", "hangs"])
def test_a_worker_that_hangs_is_found_and_ended(tmp_path: Path, home: Path, question: str) -> None:
    with running_server(home, settings=hang_settings(tmp_path)) as running:
        chat(running)
        pid = worker_pid(running)
        began = time.monotonic()
        reply = post(running, CHAT, {"messages": user(question), "stream": True})
        assert time.monotonic() - began < 25
        assert b'"engine_gone"' in reply.body
        wait_until(lambda: not psutil.pid_exists(pid))
        assert chat(running, "Hi.").status == 200


@pytest.mark.parametrize("question", ["slow batches", "one slow batch"])
def test_a_worker_with_slow_batches_is_left_alone(tmp_path: Path, home: Path, question: str) -> None:
    """Each batch takes three times the longest silence, and /health answers meanwhile."""
    with running_server(home, settings=hang_settings(tmp_path)) as running:
        chat(running)
        pid = worker_pid(running)
        assert chat(running, question).text == "Done."
        assert worker_pid(running) == pid


def test_a_load_that_fails_is_told_backs_off_and_recovers(tmp_path: Path, home: Path) -> None:
    words = f"llama_model_load: unknown model architecture: 'x' in {SECRET}\n"
    program = install(tmp_path / "program", {"print": words, "exit": 1})
    with running_server(home, settings=settings(program, server="preload = false")) as running:
        replies = [chat(running, stream=True), chat(running)]
        for reply in replies:
            assert (reply.status, reply.error["code"]) == (503, "load_failed")
            assert "does not know its architecture" in reply.error["message"]
            assert SECRET not in str(reply.json)
        backed_off = chat(running)
        assert backed_off.status == 503
        assert int(backed_off.headers["retry-after"]) >= 1
        install(tmp_path / "program", {})
        wait_until(lambda: chat(running).status == 200, timeout_s=10)


def test_requests_wait_while_the_model_is_loaded(tmp_path: Path, home: Path) -> None:
    program = install(tmp_path / "program", {"loading_s": 2})
    with running_server(home, settings=settings(program)) as running:
        (row,) = workers(running)
        assert row["state"] == "starting"
        assert chat(running).status == 200
        assert workers(running)[0]["state"] == "ready"


def test_a_load_that_takes_too_long_is_ended(tmp_path: Path, home: Path) -> None:
    program = install(tmp_path / "program", {"loading_s": 60})
    with running_server(home, settings=settings(program, "load_timeout_s = 1")) as running:
        reply = chat(running)
        assert (reply.status, reply.error["code"]) == (503, "load_failed")
        assert "load_timeout_s" in reply.error["message"]
        wait_until(lambda: not running.descendants())


def test_a_program_that_lacks_a_flag_is_named(tmp_path: Path, home: Path) -> None:
    program = install(tmp_path / "program", {"without_flags": ["--slot-save-path", "--no-webui"]})
    with running_server(home, settings=settings(program, server="preload = false")) as running:
        reply = chat(running)
        assert (reply.status, reply.error["code"]) == (503, "load_failed")
        assert "--slot-save-path" in reply.error["message"]
        assert "--no-webui" not in reply.error["message"]  # one that only makes things better


def test_a_program_that_is_no_llama_server_is_named(tmp_path: Path, home: Path) -> None:
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\necho Hello.\n")
    program.chmod(0o755)
    with running_server(home, settings=settings(program, server="preload = false")) as running:
        reply = chat(running)
        assert (reply.status, reply.error["code"]) == (503, "load_failed")
        assert "no llama-server" in reply.error["message"]


def test_the_worker_is_behind_the_same_walls(scripted: RunningServer) -> None:
    chat(scripted)
    (row,) = [row for row in workers(scripted) if row["pid"]]
    assert row["walls"]
    assert get(scripted, "/health").status == 200
