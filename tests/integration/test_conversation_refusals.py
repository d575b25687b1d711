"""What the routes of conversations refuse: what is not there, wrong, half a character, or not for this key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import owner, post, request
from tests.integration.conversing import (
    SETTINGS,
    answered,
    ask,
    refused,
    thread,
)
from tests.integration.talkers import CONVERSATIONS, follow

NOWHERE = "thread_0000000000000000"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to be changed."""
    with running_server(tmp_path_factory.mktemp("conversations") / "home", settings=SETTINGS) as running:
        yield running


HALF = "\ud800 x"


def wrong_bodies(id: str, message: str) -> list[tuple[int, str, str, Any]]:
    """(status, method, path, body) of what is refused."""
    runs, one = f"/threads/{id}/runs", f"/threads/{id}"
    return [
        (404, "GET", f"/threads/{NOWHERE}", None),
        (404, "POST", f"/threads/{NOWHERE}/runs", {"input": "x"}),
        (404, "PUT", f"/threads/{NOWHERE}/draft", {"text": "x"}),
        (404, "DELETE", f"/threads/{NOWHERE}", None),
        (404, "GET", "/runs/run_none/events", None),
        (404, "POST", "/runs/run_none/stop", None),
        (404, "GET", f"{one}/messages/msg_none", None),
        (404, "DELETE", f"{one}/queue/queued_none", None),
        (404, "POST", f"{one}/fork", {"message": "msg_none"}),
        (404, "POST", runs, {"regenerate": "msg_none"}),
        (404, "PATCH", one, {"project": "project_none"}),
        (404, "DELETE", "/projects/project_none", None),
        (409, "POST", runs, {"continue": message}),
        (400, "POST", runs, {"regenerate": message, "continue": message}),
        (400, "POST", runs, {"input": "  "}),
        (400, "POST", runs, {"input": [{"type": "text"}]}),
        (400, "POST", runs, {"input": [{"type": "song", "text": "x"}]}),
        (400, "POST", runs, {"input": 7}),
        (400, "POST", runs, {"inputs": "x"}),
        (400, "POST", runs, {"input": "x", "parameters": []}),
        (
            400,
            "POST",
            runs,
            {"input": [{"type": "file", "blob": "f" * 32, "media_type": "a/b", "name": "n", "bytes": 1}]},
        ),
        (400, "POST", runs, b"{"),
        (400, "POST", "/threads", {"title": "x" * 301}),
        (400, "POST", "/threads", {"tags": ["x" * 61]}),
        (400, "POST", "/threads", {"tags": "x"}),
        (400, "POST", "/threads", {"memory_only": True, "tags": ["x"]}),
        (400, "POST", "/threads", {"context": {"strategy": "forget"}}),
        (400, "PATCH", one, {"memory_only": True}),
        (400, "PATCH", one, {"is_favourite": "perhaps"}),
        (400, "PUT", f"{one}/draft", {"text": None}),
        (400, "PUT", f"{one}/draft", {"text": "x" * 1_000_001}),
        (400, "POST", "/threads/bulk", {"threads": [], "act": "trash"}),
        (400, "POST", "/threads/bulk", {"threads": [id], "act": "burn"}),
        (400, "POST", "/threads/bulk", {"threads": [id], "act": "tag"}),
        (400, "POST", "/projects", {"name": ""}),
        (400, "POST", "/search", {"query": "x", "limit": 0}),
        (400, "POST", "/search", {}),
        (400, "GET", "/threads?limit=0", None),
        (400, "GET", "/threads?before=yesterday", None),
        (400, "GET", f"{one}/export?format=pdf", None),
        (400, "POST", "/import", b"nothing"),
        (400, "POST", f"{one}/attachments", b""),
    ]


def test_what_is_wrong_is_said_as_a_problem(house: RunningServer) -> None:
    id = thread(house)
    done = answered(house, id, input="hi", parameters={"max_tokens": 40, "stop": [" ", "e"]})
    wrong = []
    for status, method, path, body in wrong_bodies(id, done["id"]):
        reply = request(house, method, f"{CONVERSATIONS}{path}", body)
        problem = reply.json
        if (reply.status, problem.get("status"), bool(problem.get("fix"))) != (status, status, True):
            wrong.append((method, path, status, reply.status, reply.body[:200]))
    assert wrong == []


def halves(id: str, message: str) -> list[tuple[str, str, Any]]:
    """Half a character in every field that is text."""
    one = f"/threads/{id}"
    thread_fields: list[dict[str, Any]] = [
        {"title": HALF},
        {"tags": [HALF]},
        {"model": HALF},
        {"assistant": HALF},
        {"project": HALF},
        {"parameters": {"stop": [HALF]}},
        {"parameters": {HALF: 1}},
    ]
    text = {"type": "text", "text": HALF}
    runs: list[dict[str, Any]] = [
        {"input": HALF},
        {"input": [text]},
        {"input": "x", "model": HALF},
        {"input": "x", "assistant": HALF},
        {"input": "x", "parameters": {"stop": [HALF]}},
        {"input": "x", "parent": HALF},
        {"input": "x", "instead_of": HALF},
        {"regenerate": HALF},
        {"continue": HALF},
    ]
    search: list[dict[str, Any]] = [
        {"query": HALF},
        *({"query": "x", name: HALF} for name in ("project", "assistant", "model", "thread")),
    ]
    return [
        *(("POST", "/threads", fields) for fields in thread_fields),
        *(("PATCH", one, fields) for fields in [*thread_fields, {"summary": HALF}]),
        *(("POST", f"{one}/runs", fields) for fields in runs),
        *(("POST", "/search", fields) for fields in search),
        ("PUT", f"{one}/draft", {"text": HALF}),
        ("POST", f"{one}/messages/{message}/edit", {"parts": [text]}),
        ("POST", f"{one}/fork", {"message": HALF}),
        ("POST", "/threads/bulk", {"threads": [HALF], "act": "trash"}),
        ("POST", "/threads/bulk", {"threads": [id], "act": "tag", "value": HALF}),
        ("POST", "/threads/bulk", {"threads": [id], "act": "move", "value": HALF}),
        ("POST", "/projects", {"name": HALF}),
        ("POST", "/projects", {"name": "x", "assistant": HALF}),
        ("PATCH", f"{one}/queue/queued_none", {"input": HALF}),
    ]


def unexpected(server: RunningServer, asked: list[tuple[str, str, Any]], *wanted: int) -> list[Any]:
    """What was answered with another status."""
    found = []
    for method, path, body in asked:
        reply = request(server, method, f"{CONVERSATIONS}{path}", body)
        if reply.status not in wanted:
            found.append((method, path.partition("/messages")[0], body, reply.status))
    return found


def test_half_a_character_is_refused_wherever_it_stands(house: RunningServer) -> None:
    id = thread(house)
    message = answered(house, id, input="hi")["parent"]
    assert unexpected(house, halves(id, message), 400) == []
    assert "Traceback" not in house.log_text()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/threads/%ED%A0%80", None),
        ("GET", "/threads?tag=%ED%A0%80", None),
        ("GET", "/threads?before=nan:1", None),
        ("GET", "/threads?before=1:99999999999999999999", None),
        ("POST", "/search", b'{"query": "x", "after": NaN}'),
        ("POST", "/search", b'{"query": "x", "after": 1e999}'),
        ("POST", "/threads", {"context": {"budget_tokens": 10**30}}),
    ],
)
def test_odd_values_are_no_failure_of_the_server(
    house: RunningServer, method: str, path: str, body: Any
) -> None:
    assert request(house, method, f"{CONVERSATIONS}{path}", body).status in (200, 400, 404)


@pytest.mark.parametrize(
    "last",
    ["-1", "x", "\xb2", "9" * 5000],
    ids=["negative", "letter", "squared", "long"],
)
def test_an_odd_last_event_id_is_as_none(house: RunningServer, last: str) -> None:
    id = thread(house)
    run = ask(house, "POST", f"/threads/{id}/runs", {"input": "x", "parameters": {"max_tokens": 1}})["run"]
    events = list(follow(house, run))
    headers = {**owner(house), "Last-Event-ID": last}
    reply = request(house, "GET", f"{CONVERSATIONS}/runs/{run}/events", headers=headers)
    assert (reply.status, reply.body.count(b"event: ")) == (200, len(events))


@pytest.mark.parametrize("name", ["seed", "max_tokens"])
@pytest.mark.parametrize("value", ["many", 1.5, -3, 2**63, [1]])
def test_numbers_that_no_answer_can_be_kept_with_are_refused(
    house: RunningServer, name: str, value: Any
) -> None:
    body = {"input": "hi", "parameters": {name: value}}
    id = thread(house)
    assert name in refused(house, 400, "POST", f"/threads/{id}/runs", body)["detail"]
    assert ask(house, "GET", f"/threads/{id}")["outline"] == []


@pytest.mark.parametrize("parameters", [{"temperature": "hot"}, {"messages": []}, {"n": 3}])
def test_what_the_model_refuses_is_an_error_of_the_answer(house: RunningServer, parameters: Any) -> None:
    message = answered(house, thread(house), input="hi", parameters=parameters)
    assert message["status"] == "error"
    assert message["error"]["code"] in ("invalid_request", "unsupported_parameter")


@pytest.mark.parametrize(
    ("act", "value", "status"), [("move", "project_none", 404), ("tag", "x" * 61, 400)], ids=["move", "tag"]
)
def test_many_are_not_changed_to_what_cannot_be(
    house: RunningServer, act: str, value: str, status: int
) -> None:
    refused(house, status, "POST", "/threads/bulk", {"threads": [thread(house)], "act": act, "value": value})


def test_who_may_do_what(house: RunningServer) -> None:
    id = thread(house)

    def by(right: str) -> Callable[[str, str, Any], int]:
        made = post(house, "/api/keys", {"name": right, "rights": [right]})
        assert made.status == 201, made.body
        headers = {"Authorization": f"Bearer {made.json['key']}"}

        def status(method: str, path: str, body: Any) -> int:
            return request(house, method, f"{CONVERSATIONS}{path}", body, headers=headers).status

        return status

    asked = [("GET", "/threads", None), ("GET", f"/threads/{id}", None), ("GET", "/export", None)]
    done = [
        ("POST", "/threads", {}),
        ("PATCH", f"/threads/{id}", {"title": "x"}),
        ("POST", f"/threads/{id}/runs", {"input": "hi"}),
        ("DELETE", "/threads/thread_none", None),
    ]
    reads, chats, owns = by("read"), by("chat"), by("conversational")
    assert {reads(*each) for each in asked} == {200}
    assert {reads(*each) for each in done} == {403}
    assert {chats(*each) for each in [*asked, *done]} == {403}
    assert [owns(*each) for each in done[:2]] == [201, 200]
    for each in [*asked, *done]:
        assert request(house, each[0], f"{CONVERSATIONS}{each[1]}", each[2], as_owner=False).status == 401
