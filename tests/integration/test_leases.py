"""Who waits and who does not: slots, the shared context, the queue."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from allod.testing.server import running_server
from tests.http_client import CHAT, chat, frames_in, opened, post, user, wait_until, workers

SMALL = "[llamacpp]\ncontext_tokens = 1024\npool_tokens = 1024\n"


def test_two_that_fit_alone_but_not_together_take_turns(home: Path) -> None:
    """Each would need 700 of 1024 tokens: side by side, llama.cpp ends both in mid-stream."""
    body = {"messages": user("Write."), "max_tokens": 650, "ignore_eos": True, "stream": True}
    with running_server(home, settings=SMALL) as running, ThreadPoolExecutor(3) as pool:
        chat(running, max_tokens=1)
        most = 0
        answers = [pool.submit(post, running, CHAT, body) for _ in range(3)]
        while not all(answer.done() for answer in answers):
            most = max(most, workers(running)[0]["running"])
            time.sleep(0.05)
        for answer in answers:
            frames = frames_in(answer.result().body)
            assert not [frame for frame in frames if "error" in frame]
            assert frames[-1]["choices"][0]["finish_reason"] == "length"
        assert most == 1


def test_small_ones_run_side_by_side(home: Path) -> None:
    body = {"messages": user("Write."), "max_tokens": 150, "ignore_eos": True}
    settings = "[llamacpp]\ncontext_tokens = 1024\npool_tokens = 2048\n"
    with running_server(home, settings=settings) as running, ThreadPoolExecutor(4) as pool:
        chat(running, max_tokens=1)
        most = 0
        answers = [pool.submit(post, running, CHAT, body) for _ in range(4)]
        while not all(answer.done() for answer in answers):
            most = max(most, workers(running)[0]["running"])
            time.sleep(0.05)
        assert {answer.result().status for answer in answers} == {200}
        assert most == 4


def test_a_full_queue_is_429_with_retry_after(home: Path) -> None:
    settings = "[server]\nmax_waiting = 1\n[llamacpp]\nslots = 1\n"
    long = {"messages": user("Write."), "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with running_server(home, settings=settings) as running:
        chat(running, max_tokens=1)
        with opened(running, CHAT, long), opened(running, CHAT, long):
            wait_until(lambda: workers(running)[0]["waiting"] == 1)
            for stream in (False, True):
                reply = chat(running, stream=stream)
                assert (reply.status, reply.error["code"]) == (429, "queue_full")
                assert reply.error["type"] == "rate_limit_error"
                assert int(reply.headers["retry-after"]) >= 1
        wait_until(lambda: not workers(running)[0]["running"] + workers(running)[0]["waiting"])
        assert chat(running, max_tokens=1).status == 200


def test_the_queue_is_served_in_order(home: Path) -> None:
    with running_server(home, settings="[llamacpp]\nslots = 1\n") as running, ThreadPoolExecutor(6) as pool:
        chat(running, max_tokens=1)
        ended: list[int] = []

        def ask(number: int) -> None:
            assert chat(running, "Write.", max_tokens=30, ignore_eos=True).status == 200
            ended.append(number)

        first = pool.submit(chat, running, "Write.", max_tokens=300, ignore_eos=True)
        wait_until(lambda: workers(running)[0]["running"] == 1)
        rest = []
        for number in range(4):
            rest.append(pool.submit(ask, number))
            wait_until(lambda wanted=number + 1: workers(running)[0]["waiting"] == wanted)  # type: ignore[misc]
        first.result()
        for each in rest:
            each.result()
        assert ended == [0, 1, 2, 3]
