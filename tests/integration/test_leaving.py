"""A client that leaves stops the work, whether it asked for a stream or for a whole answer."""

from __future__ import annotations

import random
import time

import pytest

from allod.testing.server import RunningServer
from tests.http_client import CHAT, busy_slots, chat, opened, user, wait_until, workers

BATCH_S = 4
"""What one batch of 512 tokens may take on a slow machine."""


@pytest.fixture(autouse=True)
def idle(server: RunningServer) -> None:
    assert chat(server, max_tokens=1).status == 200
    wait_until(lambda: busy_slots(server) == 0)


def long_prompt() -> str:
    """More than 4000 tokens that no cache knows."""
    words = "alpha beta gamma delta river stone window garden".split()
    return " ".join(random.choices(words, k=4200))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_while_the_prompt_is_read(server: RunningServer, stream: bool) -> None:
    body = {"messages": user(long_prompt()), "stream": stream, "max_tokens": 500, "ignore_eos": True}
    with opened(server, CHAT, body):
        wait_until(lambda: busy_slots(server) == 1)
        time.sleep(1.5)  # into the prompt, which takes about ten seconds
        assert busy_slots(server) == 1
    assert wait_until(lambda: busy_slots(server) == 0) <= 2 + BATCH_S
    (row,) = workers(server)
    assert (row["running"], row["waiting"], row["state"]) == (0, 0, "ready")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_while_it_generates(server: RunningServer, stream: bool) -> None:
    body = {"messages": user("Write."), "stream": stream, "max_tokens": 4000, "ignore_eos": True}
    with opened(server, CHAT, body) as connection:
        if stream:
            answer = connection.getresponse()
            while not answer.readline().startswith(b"data: "):
                pass
        else:
            wait_until(lambda: busy_slots(server) == 1)
            time.sleep(0.5)
        assert busy_slots(server) == 1
    assert wait_until(lambda: busy_slots(server) == 0) <= 1.0  # 0.2 s on an idle machine


def test_while_it_waits_its_turn(server: RunningServer) -> None:
    """One that leaves the queue frees its place, and the others go on."""
    long = {"messages": user("Write."), "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with opened(server, CHAT, long), opened(server, CHAT, long), opened(server, CHAT, long):
        with opened(server, CHAT, long):
            wait_until(lambda: workers(server)[0]["running"] == 4)
            with opened(server, CHAT, long):
                wait_until(lambda: workers(server)[0]["waiting"] == 1)
            wait_until(lambda: workers(server)[0]["waiting"] == 0)
            assert workers(server)[0]["running"] == 4
    wait_until(lambda: workers(server)[0]["running"] == 0)
