"""The routes of conversations on a real server with the real model: every act, every event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import CHAT, post, user, wait_until
from tests.integration.conversing import (
    SETTINGS,
    answered,
    ask,
    hits,
    ids,
    listening,
    refused,
    shown,
    text_in,
    thread,
)

NOWHERE = "thread_0000000000000000"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to be changed."""
    with running_server(tmp_path_factory.mktemp("conversations") / "home", settings=SETTINGS) as running:
        yield running


# threads


def test_a_thread_lives_from_its_making_to_its_end(house: RunningServer) -> None:
    made = ask(house, "POST", "/threads", {"title": "Birds", "tags": ["b", "a", "b"], "model": "jan"})
    assert (made["title"], made["title_source"], made["tags"]) == ("Birds", "manual", ["a", "b"])
    id = made["id"]
    opened = ask(house, "GET", f"/threads/{id}")
    assert opened == {
        "thread": made,
        "messages": [],
        "has_more": False,
        "outline": [],
        "queue": [],
        "run": None,
    }
    changed = ask(house, "PATCH", f"/threads/{id}", {"title": "Owls", "is_favourite": True, "summary": "s"})
    assert (changed["title"], changed["is_favourite"], changed["tags"]) == ("Owls", True, ["a", "b"])
    assert ask(house, "PATCH", f"/threads/{id}", {})["title"] == "Owls", "nothing named, nothing changed"
    assert ask(house, "PATCH", f"/threads/{id}", {"title": ""})["title_source"] == "none"
    ask(house, "PUT", f"/threads/{id}/draft", {"text": "not yet"})
    assert ask(house, "GET", f"/threads/{id}")["thread"]["draft"] == "not yet"
    assert id in ids(house, "favourite=true") and id not in ids(house, "favourite=false")
    ask(house, "PATCH", f"/threads/{id}", {"is_archived": True})
    assert id in ids(house, "place=archive") and id not in ids(house, "")
    ask(house, "PATCH", f"/threads/{id}", {"is_archived": False})
    ask(house, "DELETE", f"/threads/{id}")
    assert id in ids(house, "place=trash") and id not in ids(house, "")
    assert refused(house, 409, "POST", f"/threads/{id}/runs", {"input": "hi"})["code"] == "conflict"
    ask(house, "POST", f"/threads/{id}/restore")
    assert id in ids(house, "")
    ask(house, "DELETE", f"/threads/{id}")
    ask(house, "DELETE", "/threads")
    assert ids(house, "place=trash") == []
    refused(house, 404, "GET", f"/threads/{id}")


def test_pages_hold_every_thread_once(house: RunningServer) -> None:
    made = [thread(house, tags=["paged"], title=f"page {number}") for number in range(120)]
    found, before = [], ""
    while before is not None:
        page = ask(house, "GET", f"/threads?tag=paged&limit=50{before and f'&before={before}'}")
        found += [each["id"] for each in page["threads"]]
        before = page["next"]
    assert found == made[::-1]
    assert ids(house, "tag=paged&limit=1000") == found
    done = ask(house, "POST", "/threads/bulk", {"threads": [*made, NOWHERE], "act": "delete"})
    assert done == {"done": 120, "missing": [NOWHERE]}
    assert ids(house, "tag=paged") == []


def test_many_are_changed_at_once(house: RunningServer) -> None:
    some = [thread(house) for _ in range(3)]
    project = ask(house, "POST", "/projects", {"name": "Nest"})["id"]

    def act(act: str, value: str | None = None) -> Any:
        return ask(house, "POST", "/threads/bulk", {"threads": some, "act": act, "value": value})

    for name, value, query in (
        ("favourite", None, "favourite=true"),
        ("tag", "egg", "tag=egg"),
        ("move", project, f"project={project}"),
        ("archive", None, "place=archive"),
    ):
        assert act(name, value) == {"done": 3, "missing": []}
        assert set(some) <= set(ids(house, query)), name
        if name == "move":
            listed = ask(house, "GET", "/projects")["projects"]
            assert {each["id"]: each["threads"] for each in listed}[project] == 3
    act("unarchive")
    assert {"tag": "egg", "threads": 3} in ask(house, "GET", "/tags")["tags"]
    act("untag", "egg")
    act("unfavourite")
    act("trash")
    assert set(some) <= set(ids(house, "place=trash"))
    act("restore")
    ask(house, "PATCH", f"/projects/{project}", {"name": "Tree"})
    ask(house, "DELETE", f"/projects/{project}")
    assert ask(house, "GET", "/projects")["projects"] == []
    assert {ask(house, "GET", f"/threads/{id}")["thread"]["project"] for id in some} == {None}
    act("delete")
    assert ask(house, "GET", "/tags")["tags"] == []


def test_a_new_thread_in_a_project_begins_with_its_assistant(house: RunningServer) -> None:
    assistant = post(house, "/api/assistant/assistants", {"name": "Ana", "instructions": "Be brief."})
    assert assistant.status == 201, assistant.body
    project = ask(house, "POST", "/projects", {"name": "P", "assistant": assistant.json["id"]})["id"]
    id = thread(house, project=project)
    assert ask(house, "GET", f"/threads/{id}")["thread"]["assistant"] == assistant.json["id"]
    assert answered(house, id, input="hi")["assistant"] == assistant.json["id"]


# messages


def test_a_question_is_edited_answered_again_shown_forked_and_deleted(house: RunningServer) -> None:
    id = thread(house)
    first = answered(house, id, input="One bird?")
    question = first["parent"]
    again = answered(house, id, regenerate=first["id"])
    assert shown(house, id) == [question, again["id"]]
    page = ask(house, "GET", f"/threads/{id}/messages")["messages"]
    assert page[-1]["siblings"] == [first["id"], again["id"]]
    parts = [{"type": "text", "text": "Two birds?"}]
    edited = ask(house, "POST", f"/threads/{id}/messages/{question}/edit", {"parts": parts})
    assert shown(house, id) == [edited["id"]]
    other = answered(house, id)
    assert shown(house, id) == [edited["id"], other["id"]]
    beside = answered(house, id, input="Three?", instead_of=edited["id"])
    below = answered(house, id, input="And then?", parent=first["id"])
    assert shown(house, id) == [question, first["id"], below["parent"], below["id"]]
    ask(house, "POST", f"/threads/{id}/messages/{beside['id']}/show")
    assert shown(house, id) == [beside["parent"], beside["id"]]
    ask(house, "POST", f"/threads/{id}/messages/{question}/show")
    assert shown(house, id)[:2] == [question, first["id"]]
    assert ask(house, "PATCH", f"/threads/{id}/messages/{question}", {"is_pinned": True})["is_pinned"]
    fork = ask(house, "POST", f"/threads/{id}/fork", {"message": first["id"]})
    copies = ask(house, "GET", f"/threads/{fork['id']}")["messages"]
    assert [text_in(each) for each in copies] == ["One bird?", text_in(first)]
    outline = ask(house, "GET", f"/threads/{id}/outline")["outline"]
    gone = ask(house, "DELETE", f"/threads/{id}/messages/{first['id']}")["deleted"]
    assert set(gone) == {first["id"], below["parent"], below["id"]}
    left = ask(house, "GET", f"/threads/{id}/outline")["outline"]
    assert [each["id"] for each in left] == [each["id"] for each in outline if each["id"] not in gone]
    assert shown(house, id) == [question, again["id"]]
    assert shown(house, fork["id"]) == [each["id"] for each in copies]


def test_a_long_branch_comes_in_pages(house: RunningServer) -> None:
    id = thread(house)
    for number in range(6):
        answered(house, id, input=f"Number {number}", parameters={"max_tokens": 1})
    whole = shown(house, id)
    found: list[str] = []
    query = ""
    for _ in range(10):
        page = ask(house, "GET", f"/threads/{id}/messages?limit=5{query}")
        found = [each["id"] for each in page["messages"]] + found
        query = f"&before={found[0]}"
        if not page["has_more"]:
            break
    assert found == whole and len(whole) == 12


# search


def test_words_are_found_in_two_languages_with_marks(house: RunningServer) -> None:
    project = ask(house, "POST", "/projects", {"name": "Search"})["id"]
    english = thread(house, project=project, title="Zugunruhe of warblers")
    answered(house, english, input="The Kingfisher dives. A kingfisher! Kingfishers everywhere.")
    chinese = thread(house)
    began = time.time()
    answered(house, chinese, input="我在湖边看见一只翠鸟，它很美。The kingfisher again.")
    found = hits(house, "kingfisher")
    assert [each["thread"] for each in found if each["role"] == "user"] == [chinese, english]
    best = hits(house, '"a kingfisher"', order="best", role="user")
    assert best[0]["thread"] == english
    marked = [piece["text"] for piece in best[0]["snippet"] if piece["is_hit"]]
    assert "A kingfisher" in marked
    (hit,) = hits(house, "翠鸟")
    assert (hit["thread"], [piece["text"] for piece in hit["snippet"] if piece["is_hit"]]) == (
        chinese,
        ["翠鸟"],
    )
    assert hits(house, "鸟翠") == []
    (title,) = hits(house, "zugunruhe")
    assert (title["thread"], title["message"]) == (english, None)
    filters: list[tuple[dict[str, Any], list[str]]] = [
        ({"project": project}, [english]),
        ({"thread": chinese}, [chinese]),
        ({"after": began}, [chinese]),
        ({"before": began}, [english]),
        ({"model": "none"}, []),
        ({"assistant": "none"}, []),
        ({"limit": 1}, [chinese]),
        ({"limit": 1, "offset": 1}, [english]),
    ]
    for chosen, wanted in filters:
        role = {} if "model" in chosen or "assistant" in chosen else {"role": "user"}
        assert [
            each["thread"] for each in hits(house, "kingfisher dives again"[:10], **role, **chosen)
        ] == wanted
    ask(house, "DELETE", f"/threads/{chinese}")
    assert hits(house, "翠鸟") == [], "not in the trash"
    assert hits(house, "  !?  ") == []


# beside


def test_v1_leaves_nothing_in_threads(house: RunningServer) -> None:
    before = ids(house, "limit=1000")
    body = {"model": "jan", "messages": user("Leave no thylacine."), "max_tokens": 4}
    assert post(house, CHAT, body).status == 200
    assert post(house, CHAT, {**body, "store": False}).status == 200
    assert ids(house, "limit=1000") == before
    assert hits(house, "thylacine") == []


def test_every_change_is_told_by_ids_only(house: RunningServer) -> None:
    secret = "Wallcreeper"
    with listening(house) as told:

        def heard(name: str, **fields: Any) -> None:
            """Wait for an event, and let go of all before it."""
            wait_until(lambda: any(each == name and fields.items() <= data.items() for each, data in told))
            everything.extend(told)
            del told[: len(told)]

        everything: list[Any] = []
        id = thread(house, title=secret)
        heard("ThreadChanged", thread=id, change="created")
        ask(house, "PATCH", f"/threads/{id}", {"tags": [secret]})
        heard("ThreadChanged", thread=id, change="changed")
        ask(house, "PUT", f"/threads/{id}/draft", {"text": secret})
        heard("ThreadChanged", thread=id, change="changed")
        body = {"input": secret, "parameters": {"max_tokens": 600, "ignore_eos": True}}
        begun = ask(house, "POST", f"/threads/{id}/runs", body)
        run, answer = begun["run"], begun["answer"]["id"]
        heard("ChatRunChanged", thread=id, run=run, message=answer, state="queued")
        queued = ask(house, "POST", f"/threads/{id}/runs", {"input": secret})["queued"]["id"]
        heard("QueueChanged", thread=id)
        ask(house, "DELETE", f"/threads/{id}/queue/{queued}")
        heard("QueueChanged", thread=id)
        ask(house, "POST", f"/runs/{run}/stop")
        heard("ChatRunChanged", run=run, state="stopped")
        question = begun["question"]["id"]
        ask(house, "PATCH", f"/threads/{id}/messages/{question}", {"is_pinned": True})
        heard("MessageChanged", message=question, change="changed")
        parts = [{"type": "text", "text": secret}]
        edited = ask(house, "POST", f"/threads/{id}/messages/{question}/edit", {"parts": parts})["id"]
        heard("MessageChanged", message=edited, change="created")
        ask(house, "POST", f"/threads/{id}/messages/{question}/show")
        heard("ThreadChanged", thread=id, change="changed")
        fork = ask(house, "POST", f"/threads/{id}/fork", {"message": question})["id"]
        heard("ThreadChanged", thread=fork, change="created")
        ask(house, "DELETE", f"/threads/{id}/messages/{edited}")
        heard("MessageChanged", message=edited, change="deleted")
        project = ask(house, "POST", "/projects", {"name": secret})["id"]
        heard("ProjectChanged", project=project, change="created")
        ask(house, "DELETE", f"/projects/{project}")
        heard("ProjectChanged", project=project, change="deleted")
        ask(house, "DELETE", f"/threads/{id}")
        heard("ThreadChanged", thread=id, change="deleted")
        ask(house, "POST", f"/threads/{id}/restore")
        heard("ThreadChanged", thread=id, change="changed")
        ask(house, "DELETE", f"/threads/{id}?forever=true")
        heard("ThreadChanged", thread=id, change="deleted")
        assert secret not in json.dumps(everything)
