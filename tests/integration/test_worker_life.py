"""Loading, crashing, hanging, unloading, ending: what a worker may do, and what its requests are told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.testing.server import RunningServer, running_server
from tests.conftest import MODEL
from tests.http_client import (
    CHAT,
    Reply,
    busy_slots,
    chat,
    get,
    opened,
    post,
    request,
    user,
    wait_until,
    worker_pid,
    workers,
    writing_slots,
)

LATE = "[server]\npreload = false\n"
LONG: dict[str, Any] = {"messages": user("Write."), "max_tokens": 4000, "ignore_eos": True}


def test_fifty_first_requests_load_once(home: Path) -> None:
    with running_server(home, settings=LATE) as late:
        assert not workers(late)
        with ThreadPoolExecutor(50) as pool:
            replies = list(pool.map(lambda _: chat(late, max_tokens=2), range(50)))
        assert {reply.status for reply in replies} == {200}
        assert late.log_text().count("loaded ") == 1
        assert len(late.descendants()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_fails_its_own_requests_and_the_next_gets_a_new_worker(
    server: RunningServer, number: signal.Signals
) -> None:
    chat(server, max_tokens=1)
    before = worker_pid(server)
    plain: list[Reply] = []
    thread = threading.Thread(target=lambda: plain.append(post(server, CHAT, LONG)))
    with opened(server, CHAT, {**LONG, "stream": True}) as connection:
        answer = connection.getresponse()
        while not answer.readline().startswith(b"data: "):
            pass
        thread.start()
        wait_until(lambda: writing_slots(server) == 2)
        os.kill(before, number)
        tail = answer.read()
    thread.join()
    error = json.loads(tail.strip().split(b"data: ")[-1])["error"]
    assert error["code"] == "engine_gone"
    assert error["source"] == "engine"
    assert number.name in error["message"] or "ended" in error["message"]
    assert not tail.endswith(b"[DONE]\n\n")
    assert (plain[0].status, plain[0].error["code"]) == (502, "engine_gone")
    assert chat(server, max_tokens=2).status == 200
    assert worker_pid(server) != before


def test_a_worker_that_hangs_is_ended(home: Path) -> None:
    with running_server(home, settings="[llamacpp]\nhang_timeout_s = 3\n") as running:
        chat(running, max_tokens=1)
        pid = worker_pid(running)
        with opened(running, CHAT, {**LONG, "stream": True}) as connection:
            answer = connection.getresponse()
            while not answer.readline().startswith(b"data: "):
                pass
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            tail = answer.read()
        assert time.monotonic() - began < 15
        assert b'"engine_gone"' in tail
        wait_until(lambda: not psutil.pid_exists(pid))
        assert chat(running, max_tokens=1).status == 200


def test_a_slow_batch_is_no_hang(home: Path) -> None:
    """One batch takes longer than the deadline, but /health answers: never ended for that."""
    settings = "[llamacpp]\nhang_timeout_s = 1\nbatch_tokens = 2048\n"
    with running_server(home, settings=settings) as running:
        reply = chat(running, "word " * 4000, max_tokens=2)
        assert reply.status == 200, reply.body


def test_kill_9_of_the_server_leaves_no_process(home: Path) -> None:
    with running_server(home) as running:
        chat(running, max_tokens=1)
        children = running.descendants()
        assert children
        with opened(running, CHAT, {**LONG, "stream": True}):
            wait_until(lambda: busy_slots(running) == 1)
            running.process.kill()
            running.process.wait()
            _, alive = psutil.wait_procs(children, timeout=5)
            assert not alive


def test_the_next_server_cleans_up_after_a_killed_one(home: Path) -> None:
    with running_server(home) as running:
        chat(running, max_tokens=1)
        running.process.kill()
        running.process.wait()
    assert list(home.glob("run/sockets-*"))
    with running_server(home) as running:
        assert chat(running, max_tokens=1).status == 200
        assert len(list(home.glob("run/sockets-*"))) == 1
    assert not list(home.glob("run/sockets-*"))


def test_keep_alive_0_unloads_and_gives_all_memory_back(home: Path) -> None:
    with running_server(home, settings=LATE) as running:
        assert chat(running, max_tokens=1, keep_alive=0).status == 200
        wait_until(lambda: not running.descendants())
        assert [row["state"] for row in workers(running)] in ([], ["stopped"])
        assert chat(running, max_tokens=1, keep_alive="2s").status == 200
        assert running.descendants()
        wait_until(lambda: not running.descendants(), timeout_s=6)


def test_load_and_unload_by_hand(home: Path) -> None:
    with running_server(home, settings=LATE) as running:
        loaded = post(running, f"/api/llamacpp/models/{MODEL}/load", {"pin": True})
        assert loaded.status == 200
        assert loaded.json["plan"]["context_tokens"] == 8192
        (row,) = workers(running)
        assert (row["state"], row["pinned"]) == ("ready", True)
        assert row["memory_bytes"] > 100_000_000
        assert post(running, "/api/llamacpp/models/jan/unload", {}).status == 204
        wait_until(lambda: not running.descendants())


def test_a_plan_is_near_what_is_really_taken(server: RunningServer) -> None:
    chat(server, max_tokens=1)
    (row,) = [row for row in workers(server) if row["pid"]]
    assert 0.5 < row["memory_bytes"] / row["planned_bytes"] < 1.3


def second_name(home: Path, server_model: Path) -> None:
    """The embedded model under a second name, so that there are two."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "twin.gguf").symlink_to(server_model)


def embedded() -> Path:
    from allod.extensions.llamacpp.catalog import embedded_model

    path = embedded_model()
    assert path is not None
    return path


def test_a_second_model_makes_room_by_unloading_the_first(home: Path) -> None:
    second_name(home, embedded())
    settings = "[server]\nmemory_budget_mib = 900\npreload = false\n[llamacpp]\npool_tokens = 8192\n"
    with running_server(home, settings=settings) as running:
        assert chat(running, max_tokens=1, model=MODEL).status == 200
        first = worker_pid(running)
        assert chat(running, max_tokens=1, model="twin").status == 200
        assert not psutil.pid_exists(first)
        assert {row["model"]: row["state"] for row in workers(running)}["twin"] == "ready"


def test_a_pinned_model_is_never_unloaded_for_another(home: Path) -> None:
    second_name(home, embedded())
    settings = "[server]\nmemory_budget_mib = 900\npreload = false\n[llamacpp]\npool_tokens = 8192\n"
    with running_server(home, settings=settings) as running:
        assert post(running, f"/api/llamacpp/models/{MODEL}/load", {"pin": True}).status == 200
        first = worker_pid(running)
        refused = chat(running, max_tokens=1, model="twin")
        assert (refused.status, refused.error["code"]) == (507, "model_too_large")
        assert worker_pid(running) == first


def test_what_does_not_fit_is_507(home: Path) -> None:
    settings = "[server]\nmemory_budget_mib = 50\npreload = false\n"
    with running_server(home, settings=settings) as running:
        reply = chat(running)
        assert (reply.status, reply.error["code"]) == (507, "model_too_large")
        assert reply.error["source"] == "scheduler"


def test_a_damaged_file_is_named_and_not_fatal(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    (home / "models" / "cut.gguf").write_bytes(embedded().read_bytes()[:20_000_000])
    with running_server(home, settings=LATE) as running:
        listed = {m["id"]: m["problem"] for m in get(running, "/api/llamacpp/models").json["models"]}
        assert listed["broken"]
        assert listed["cut"]
        assert listed[MODEL] == ""
        for model in ("broken", "cut"):
            reply = chat(running, model=model)
            assert (reply.status, reply.error["code"]) == (503, "load_failed")
            assert listed[model] in reply.error["message"]
        assert chat(running, max_tokens=1).json["model"] == MODEL


def test_a_load_that_fails_says_why_and_backs_off(home: Path) -> None:
    """A file whose header is right and whose tensors are rubbish: llama.cpp itself has to find out."""
    whole = bytearray(embedded().read_bytes())
    at = whole.find(b"general.architecture") + len("general.architecture") + 4 + 8
    whole[at : at + 5] = b"llamx"
    (home / "models").mkdir(parents=True)
    (home / "models" / "odd.gguf").write_bytes(whole)
    with running_server(home, settings=LATE) as running:
        replies = [chat(running, model="odd") for _ in range(3)]
        assert {(reply.status, reply.error["code"]) for reply in replies} == {(503, "load_failed")}
        assert str(home) not in replies[0].error["message"]
        assert "retry-after" in replies[-1].headers
        assert chat(running, max_tokens=1, model=MODEL).status == 200


def test_a_model_by_path(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "my model.gguf"
    file.parent.mkdir()
    file.symlink_to(embedded())
    with running_server(home, arguments=["--model", str(file)]) as running:
        assert chat(running, max_tokens=2).json["model"] == "my model"


def test_models_are_added_by_reference_and_forgotten(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "added.gguf"
    shutil.copyfile(embedded(), file)
    with running_server(home, settings=LATE) as running:
        made = post(running, "/api/llamacpp/models", {"path": str(file)})
        assert made.status == 201, made.body
        assert chat(running, model="added", max_tokens=1).status == 200
    with running_server(home, settings=LATE) as running:
        assert "added" in {model["id"] for model in get(running, "/v1/models").json["data"]}
        assert request(running, "DELETE", "/api/llamacpp/models/added").status == 204
        assert "added" not in {model["id"] for model in get(running, "/v1/models").json["data"]}
    assert file.exists()
