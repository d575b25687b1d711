"""Runs on a real server with the real model: several readers, lost connections, lines, stops, going on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.conftest import MODEL
from tests.http_client import Reply, post, wait_until
from tests.integration.conversing import (
    SETTINGS,
    answered,
    ask,
    refused,
    shown,
    text_in,
    thread,
)
from tests.integration.talkers import CONVERSATIONS, follow

GREEDY = {"temperature": 0, "seed": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to be changed."""
    with running_server(tmp_path_factory.mktemp("conversations") / "home", settings=SETTINGS) as running:
        yield running


def test_two_readers_hear_the_same_and_a_third_goes_on_where_it_lost_it(house: RunningServer) -> None:
    id = thread(house)
    body = {"input": "Tell me a tale.", "parameters": {"max_tokens": 120, "ignore_eos": True}}
    run = ask(house, "POST", f"/threads/{id}/runs", body)["run"]

    def reads(_: int) -> list[tuple[str, Any]]:
        return list(follow(house, run))

    def drops(_: int) -> list[tuple[str, Any]]:
        heard: list[tuple[str, Any]] = []
        while not heard or heard[-1][0] != "ended":
            heard += list(itertools.islice(follow(house, run, after=len(heard)), 7))
        return heard

    with ThreadPoolExecutor(3) as pool:
        one, two, three = pool.map(lambda reader: reader(0), [reads, reads, drops])
    assert one == two == three
    said = "".join(data["text"] for event, data in one if event == "text")
    assert said == text_in(one[-1][1]["message"]) and len(said) > 100
    assert [event for event, _ in follow(house, run, after=len(one) - 1)] == ["ended"]
    states = [data["state"] for event, data in one if event == "state"]
    assert states[0] == "queued" and states[-1] == "writing"
    seen = ask(house, "GET", f"/runs/{run}/context")
    assert seen["messages"] == shown(house, id)[:1] and seen["left_out"] == 0
    assert seen["tokens"]["prompt"] == one[-1][1]["message"]["usage"]["prompt_tokens"]
    message = ask(house, "GET", f"/runs/{run}")["message"]
    assert (message["status"], message["model"]) == ("length", MODEL)
    assert message["seed"] is not None and message["parameters"]["max_tokens"] == 120


def test_what_waits_in_line_is_changed_taken_out_and_sent(house: RunningServer) -> None:
    id = thread(house)
    body = {"input": "one", "parameters": {"max_tokens": 1500, "ignore_eos": True}}
    run = ask(house, "POST", f"/threads/{id}/runs", body)["run"]
    few = {"parameters": {"max_tokens": 2}}
    two, three = (
        ask(house, "POST", f"/threads/{id}/runs", {"input": text, **few})["queued"]
        for text in ("two", "three")
    )
    ask(house, "PATCH", f"/threads/{id}/queue/{two['id']}", {"input": "two, changed"})
    ask(house, "DELETE", f"/threads/{id}/queue/{three['id']}")
    refused(house, 409, "POST", f"/threads/{id}/runs", {"input": "now", "queue": False})
    waiting = ask(house, "GET", f"/threads/{id}/queue")["queue"]
    assert [(each["id"], text_in(each), each["options"]) for each in waiting] == [
        (two["id"], "two, changed", few)
    ]
    assert ask(house, "GET", f"/threads/{id}")["run"]["id"] == run
    ask(house, "POST", f"/runs/{run}/stop")
    assert ask(house, "GET", f"/threads/{id}/queue")["queue"] == waiting, "after a stop it stays"
    answered(house, id, input="in between")
    wait_until(lambda: len(shown(house, id)) == 6 and ask(house, "GET", f"/threads/{id}")["run"] is None)
    texts = [text_in(each) for each in ask(house, "GET", f"/threads/{id}")["messages"][::2]]
    assert texts == ["one", "in between", "two, changed"]
    refused(house, 404, "PATCH", f"/threads/{id}/queue/{two['id']}", {"input": "too late"})


@pytest.mark.parametrize("memory_only", [False, True])
def test_a_stopped_answer_goes_on_as_if_nothing_had_been(house: RunningServer, memory_only: bool) -> None:
    """No character is lost or doubled at the join; what follows is what an answer that was not stopped has."""
    question = "Count from one to fifty in words."
    id = thread(house, memory_only=memory_only)
    whole = text_in(answered(house, id, input=question, parameters={**GREEDY, "max_tokens": 120}))
    other = thread(house, memory_only=memory_only)
    body = {"input": question, "parameters": {**GREEDY, "max_tokens": 1500}}
    begun = ask(house, "POST", f"/threads/{other}/runs", body)
    pieces = [
        data["text"] for event, data in itertools.islice(follow(house, begun["run"]), 16) if event == "text"
    ]
    ask(house, "POST", f"/runs/{begun['run']}/stop")
    stopped = ask(house, "GET", f"/runs/{begun['run']}")["message"]
    assert stopped["status"] == "stopped" and text_in(stopped).startswith("".join(pieces))
    assert whole.startswith(text_in(stopped))
    going_on = {"continue": stopped["id"], "parameters": {**GREEDY, "max_tokens": 20}}
    ended = answered(house, other, **going_on)
    assert ended["id"] == stopped["id"]
    assert text_in(ended).startswith(text_in(stopped))
    common = min(len(text_in(ended)), len(whole))
    assert common > len(text_in(stopped)) + 10
    assert text_in(ended)[:common] == whole[:common]
    if memory_only:
        for each in (id, other):
            ask(house, "DELETE", f"/threads/{each}")


def test_an_answer_cut_in_mid_character_is_whole_at_last(house: RunningServer) -> None:
    """The grammar makes the model say these characters, of several tokens each; each run brings one token more."""
    wanted = "龘🦉é"
    id = thread(house)
    parameters = {"grammar": f'root ::= "{wanted}"', "max_tokens": 1, "temperature": 0}
    message = answered(house, id, input="Go.", parameters=parameters)
    for _ in range(30):
        assert message["status"] in ("length", "done")
        if message["status"] == "done" or len(text_in(message)) >= len(wanted):
            break
        left = {**parameters, "grammar": f'root ::= "{wanted[len(text_in(message)) :]}"', "max_tokens": 8}
        message = answered(house, id, **{"continue": message["id"], "parameters": left})
    assert text_in(message) == wanted


def test_many_ask_in_one_thread_and_none_is_lost(house: RunningServer) -> None:
    id = thread(house)

    def asks(number: int) -> Reply:
        body = {"input": f"question {number}", "parameters": {"max_tokens": 1}}
        return post(house, f"{CONVERSATIONS}/threads/{id}/runs", body)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(asks, range(24)))
    assert {reply.status for reply in replies} == {202}
    wait_until(lambda: len(shown(house, id)) == 48 and ask(house, "GET", f"/threads/{id}")["run"] is None, 60)
    texts = [text_in(each) for each in ask(house, "GET", f"/threads/{id}")["messages"][::2]]
    assert sorted(texts) == sorted(f"question {number}" for number in range(24))
