"""`store: true` on /v1: a conversation of a program's, kept in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import CHAT, frames_in, get, owner, request, streamed_text, user

THREADS = "/api/conversational/threads"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("stored") / "home") as running:
        yield running


def body(**fields: Any) -> dict[str, Any]:
    said = [{"role": "system", "content": "Be brief."}, *user("Say hello.")]
    return {"model": "jan", "messages": said, "max_tokens": 8, **fields}


def count(server: RunningServer) -> int:
    return len(get(server, THREADS).json["threads"])


def test_a_whole_answer_is_kept_with_all_that_was_said(server: RunningServer) -> None:
    reply = request(server, "POST", CHAT, body(store=True, temperature=0), headers=owner(server))
    assert reply.status == 200
    opened = get(server, f"{THREADS}/{reply.json['allod']['thread']}").json
    assert opened["thread"]["instructions"] == "Be brief."
    question, answer = opened["messages"]
    assert question["parts"] == [{"type": "text", "text": "Say hello."}]
    assert answer["parts"] == [{"type": "text", "text": reply.text}]
    assert (answer["status"], answer["seed"]) == ("length", reply.json["allod"]["seed"])
    assert answer["usage"]["completion_tokens"] == 8


def test_a_streamed_one_carries_the_thread_in_its_first_chunk(server: RunningServer) -> None:
    reply = request(server, "POST", CHAT, body(store=True, stream=True), headers=owner(server))
    chunks = frames_in(reply.body)
    thread = chunks[0]["allod"]["thread"]
    answer = get(server, f"{THREADS}/{thread}").json["messages"][-1]
    assert answer["parts"] == [{"type": "text", "text": streamed_text(chunks)}]


def test_nothing_is_kept_unless_asked(server: RunningServer) -> None:
    before = count(server)
    for fields in ({}, {"store": False}, {"store": None}):
        assert request(server, "POST", CHAT, body(**fields), headers=owner(server)).status == 200
    assert count(server) == before


def test_nobody_in_particular_keeps_nothing(server: RunningServer) -> None:
    before = count(server)
    refused = request(server, "POST", CHAT, body(store=True), as_owner=False)
    assert (refused.status, refused.error["param"]) == (401, "store")
    refused = request(server, "POST", CHAT, body(store=True, n=2), headers=owner(server))
    assert (refused.status, refused.error["param"]) == (400, "store")
    assert count(server) == before


def test_tools_and_answers_are_kept_as_a_thread_has_them(server: RunningServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    said = [
        *user("What is up there?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a crane"},
        {"role": "assistant", "content": "A crane."},
        *user("Thanks!"),
    ]
    reply = request(
        server,
        "POST",
        CHAT,
        {"model": "jan", "messages": said, "max_tokens": 4, "store": True},
        headers=owner(server),
    )
    messages = get(server, f"{THREADS}/{reply.json['allod']['thread']}").json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert [part["type"] for part in messages[1]["parts"]] == ["tool_call", "tool_result", "text"]
