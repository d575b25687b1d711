"""Extensions that others wrote, installed by pip beside Allod: an engine, and one with all the rest."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from allod.testing.server import running_server
from tests.http_client import CHAT, Reply, frames, owner, request, streamed_text, user
from tests.packages import PACKAGES, Environment
from tests.packages.serving import Owner, serving
from tests.packages.site import Site, web_site


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(PACKAGES / "allod-echo", PACKAGES / "allod-notes")
    return made


@pytest.fixture(scope="module")
def anna(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    with serving(tmp_path_factory.mktemp("others") / "home", environment) as started:
        yield started


def test_all_of_them_run_and_say_what_they_contribute(anna: Owner) -> None:
    listed = {row["name"]: row for row in anna.ask("GET", "/api/extensions").json["extensions"]}
    assert {name: row["state"] for name, row in listed.items()} == dict.fromkeys(
        ("assistant", "conversational", "llamacpp", "system", "terminal", "echo", "notes"), "active"
    )
    assert listed["notes"]["contributes"] == {
        "engines": [],
        "stages": ["notes"],
        "tools": ["count"],
        "jobs": ["import_notes"],
        "events": [],
        "services": [],
        "routes": True,
    }
    assert (listed["notes"]["package"], listed["notes"]["is_builtin"]) == ("allod-notes", False)
    assert "/api/notes/notes" in anna.ask("GET", "/openapi.json").json["paths"]


def test_models_on_this_machine_run_though_llama_cpp_lies_in_another_environment(anna: Owner) -> None:
    models = anna.ask("GET", "/v1/models").json["data"]
    (local,) = [
        model["id"]
        for model in models
        if model["owned_by"] == "llamacpp" and "alias_of" not in model["allod"]
    ]
    answer = anna.ask("POST", CHAT, {"model": local, "messages": user("Hello!"), "max_tokens": 4})
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]


def test_an_engine_answers_like_any_other(anna: Owner) -> None:
    assert "echo" in [model["id"] for model in anna.ask("GET", "/v1/models").json["data"]]
    answer = anna.chat("hello")
    assert json.loads(answer.text)["heard"] == "hello"
    body = {"model": "echo", "messages": user("hello")}
    assert json.loads(streamed_text(frames(anna.server, CHAT, body)))["heard"] == "hello"


def test_a_route_keeps_what_a_stage_tells_the_model(anna: Owner) -> None:
    assert anna.ask("POST", "/api/notes/notes", {"text": "the harbour opens in May"}).status == 201
    answer = anna.chat("When?")
    assert "Note: the harbour opens in May" in json.loads(answer.text)["system"][0]
    assert {"stage": "notes", "told": 1} in answer.json["allod"]["notes"]
    anna.ask("PATCH", "/api/settings/notes", {"prefix": "Remember:"})
    assert "Remember: the harbour" in json.loads(anna.chat("When?").text)["system"][0]
    assert anna.ask("POST", "/api/notes/notes", {"text": ""}).json["param"] == "text"


def test_the_server_runs_its_tool_and_goes_on_with_the_result(anna: Owner) -> None:
    tools = [{"type": "allod", "name": "notes_count"}]
    answer = anna.chat('call notes_count {"contains": "harbour"}', tools=tools)
    assert json.loads(answer.text)["results"] == ["1"]
    assert {"stage": "tools", "tool": "notes_count"} in answer.json["allod"]["notes"]
    streamed = anna.chat('call notes_count {"contains": "x"}', tools=tools, stream=True)
    assert b"tool_calls" not in streamed.body
    for wrong, said in (
        ("call notes_count {", "not valid JSON"),
        ('call notes_count {"contains": 5}', "'contains' is wrong"),
        ("call notes_nothing {}", "There is no tool"),
    ):
        offered = [*tools, {"type": "function", "function": {"name": "mine"}}]
        found = anna.chat(wrong, tools=offered)
        if "nothing" in wrong:  # not one of the server's: the client's to run
            assert found.json["choices"][0]["finish_reason"] == "tool_calls"
        else:
            assert said in json.loads(found.text)["results"][0]


def test_a_model_that_only_calls_is_brought_to_speak(anna: Owner) -> None:
    tools = [{"type": "allod", "name": "notes_count"}]
    answer = anna.chat('call notes_count {"contains": "again"}', tools=tools)
    assert len(json.loads(answer.text)["results"]) == 9


def test_tools_need_a_key_and_must_exist(anna: Owner) -> None:
    body = {"model": "echo", "messages": user("hi"), "tools": [{"type": "allod", "name": "notes_count"}]}
    assert request(anna.server, "POST", CHAT, body).status == 401
    missing = anna.chat("hi", tools=[{"type": "allod", "name": "notes_none"}])
    assert (missing.status, missing.error["param"]) == (400, "tools")
    assert anna.chat("hi", tools=body["tools"], n=2).status == 400
    assert "notes_count" in [tool["name"] for tool in anna.ask("GET", "/api/tools").json["tools"]]


def test_a_job_keeps_its_rows_and_its_progress_together(anna: Owner) -> None:
    asked = {"extension": "notes", "kind": "import_notes", "parameters": {"texts": ["a", "b", "c"]}}
    started = anna.ask("POST", "/api/jobs", asked)
    assert started.status == 201
    ended = anna.job(started.json["id"])
    assert (ended["state"], ended["result"], ended["done"]) == ("done", {"kept": 3}, 3)
    assert anna.ask("GET", "/api/notes/notes").json["notes"][-3:] == ["a", "b", "c"]
    wrong = anna.ask("POST", "/api/jobs", {**asked, "parameters": {"texts": 5}})
    assert (wrong.status, wrong.json["param"]) == (400, "texts")


def test_stopped_in_mid_job_it_goes_on_where_it_was(anna: Owner) -> None:
    texts = [f"long {number}" for number in range(30)]
    asked = {"extension": "notes", "kind": "import_notes", "parameters": {"texts": texts, "pause_s": 0.02}}
    job = anna.ask("POST", "/api/jobs", asked).json["id"]
    deadline = time.monotonic() + 10
    while anna.ask("GET", f"/api/jobs/{job}").json["done"] < 3:
        assert time.monotonic() < deadline
    disabled = anna.ask("POST", "/api/extensions/notes/disable").json
    assert disabled["state"] == "disabled"
    assert anna.ask("GET", f"/api/jobs/{job}").json["state"] == "queued"
    assert anna.ask("GET", "/api/notes/notes").status == 404
    assert json.loads(anna.chat("hi").text)["system"] == []
    assert anna.ask("POST", "/api/extensions/notes/enable").json["state"] == "active"
    assert anna.job(job)["state"] == "done"
    kept = [note for note in anna.ask("GET", "/api/notes/notes").json["notes"] if note.startswith("long")]
    assert kept == texts


def test_an_engine_that_is_switched_off_takes_its_models_along(anna: Owner) -> None:
    anna.ask("POST", "/api/extensions/echo/disable")
    assert anna.chat("hi").error["code"] == "model_not_found"
    anna.ask("POST", "/api/extensions/echo/enable")
    assert anna.chat("hi").status == 200


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site({"/private/words?of=mine": "from outside"}) as started:
        yield started


def test_nothing_is_reached_before_it_is_allowed(anna: Owner, site: Site) -> None:
    host = site.host
    secret = {"url": f"http://{host}/private/words?of=mine"}

    def fetch() -> Reply:
        return anna.ask("POST", "/api/notes/fetched", secret)

    refused = fetch()
    assert (refused.status, refused.json["code"]) == (403, "egress_refused")
    assert f"allod egress allow notes {host}" in refused.json["fix"]
    assert site.paths == []

    assert (
        anna.ask("POST", "/api/egress/grants", {"extension": "notes", "host": host, "once": True}).status
        == 201
    )
    assert fetch().json == {"kept": "from outside"}
    assert fetch().status == 403  # once was once
    anna.ask("POST", "/api/egress/grants", {"extension": "notes", "host": host, "purpose": "import"})
    assert fetch().status == 201
    assert anna.ask("PUT", "/api/egress/offline", {"offline": True}).json["offline"] is True
    assert fetch().status == 403
    anna.ask("PUT", "/api/egress/offline", {"offline": False})
    assert fetch().status == 201
    assert anna.ask("DELETE", f"/api/egress/grants?extension=notes&host={host}").status == 204
    assert fetch().status == 403
    assert site.paths == ["/private/words?of=mine"] * 3

    entries = anna.ask("GET", "/api/egress/log?extension=notes").json["entries"]
    assert [entry["verdict"] for entry in reversed(entries)] == [
        "ungranted",
        "allowed",
        "ungranted",
        "allowed",
        "offline",
        "allowed",
        "ungranted",
    ]
    assert {(entry["host"], entry["purpose"], entry["method"]) for entry in entries} == {
        (host, "import", "GET")
    }
    assert "private" not in json.dumps(entries)
    assert "private/words" not in anna.server.log_text()
    unknown = anna.ask("POST", "/api/egress/grants", {"extension": "nobody", "host": host})
    assert unknown.status == 404


def test_events_are_one_stream_that_is_picked_up_where_it_was_left(anna: Owner) -> None:
    with listening(anna) as stream:
        anna.ask("PATCH", "/api/settings/notes", {"prefix": "First:"})
        first = stream.wait_for("SettingsChanged")
        assert json.loads(first.data)["fields"] == ["prefix"]
        assert json.loads(first.data)["source"] == "kernel"
    anna.ask("PATCH", "/api/settings/notes", {"prefix": "Second:"})
    with listening(anna, first.id) as stream:
        missed = stream.wait_for("SettingsChanged")
        assert missed.id != first.id
        asked = {"extension": "notes", "kind": "import_notes", "parameters": {"texts": ["x"]}}
        job = anna.ask("POST", "/api/jobs", asked).json["id"]
        assert json.loads(stream.wait_for("JobEnded").data)["job"] == job
    assert request(anna.server, "GET", "/api/events", as_owner=False).status == 401


@dataclass(frozen=True, slots=True)
class Frame:
    id: str
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class Stream:
    answer: http.client.HTTPResponse

    def wait_for(self, event: str) -> Frame:
        found: dict[str, str] = {}
        while line := self.answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                found[name] = value
            elif found.get("event") == event:
                return Frame(found["id"], found["event"], found["data"])
            elif not line.strip():
                found = {}
        raise AssertionError(f"the stream ended before {event}")


@contextmanager
def listening(anna: Owner, after: str = "") -> Iterator[Stream]:
    connection = http.client.HTTPConnection("127.0.0.1", anna.server.port, timeout=20)
    try:
        connection.request(
            "GET", "/api/events", headers=owner(anna.server) | ({"Last-Event-ID": after} if after else {})
        )
        yield Stream(connection.getresponse())
    finally:
        connection.close()


def test_without_them_the_rest_runs_and_their_tables_stay(environment: Environment, home: Path) -> None:
    with serving(home, environment) as first:
        first.ask("POST", "/api/notes/notes", {"text": "kept"})
    with running_server(home, arguments=["--builtin-only"], settings="[server]\npreload = false\n") as server:
        assert {row["name"] for row in Owner(server).ask("GET", "/api/extensions").json["extensions"]} == {
            "assistant",
            "conversational",
            "llamacpp",
            "system",
            "terminal",
        }
    with running_server(
        home, python=environment.python, arguments=["--builtin-only"], settings="[server]\npreload = false\n"
    ) as server:
        row = Owner(server).ask("GET", "/api/extensions/notes").json
        assert (row["state"], row["fix"]) == ("refused", "Start the server without --builtin-only.")
    with serving(home, environment) as again:
        assert again.ask("GET", "/api/notes/notes").json["notes"] == ["kept"]


@pytest.mark.parametrize("name", ["allod-echo", "allod-notes"])
def test_they_keep_the_contract(environment: Environment, name: str, tmp_path: Path) -> None:
    module = name.replace("-", "_")
    kind = module.removeprefix("allod_").capitalize()
    test = f"""
from allod.testing import contract
from {module} import {kind}

async def test_it_keeps_the_contract(tmp_path):
    await contract.check({kind}, tmp_path)
"""
    (tmp_path / "test_contract.py").write_text(test)
    assert "1 passed" in environment.pytest(tmp_path, "-p", "no:cacheprovider")
