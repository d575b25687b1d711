"""The chat's line editor and the server that keeps what is entered: a real editor, a real server, a real store."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from allod.cli.chat import chat
from allod.cli.chat_input import _kept_by, edited_lines
from allod.cli.client import Client
from allod.extensions.terminal.settings import TerminalSettings
from allod.kernel.storage import Database
from tests.unit.system.asked import application, serving
from tests.unit.terminal.house import House

UP, CTRL_D = "\x1b[A", "\x04"


@contextlib.contextmanager
def kept_in(house: House, settings: TerminalSettings | None = None) -> Iterator[str]:
    """The address of a server that keeps what is entered; it also knows one model, by which a chat greets."""
    database = Database(house.file, house.key)
    app = application(house.terminal(database, settings))

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, str]:
        return {"id": name}

    with serving(app) as url:
        yield url
    asyncio.run(database.close())


@contextlib.contextmanager
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def enter(keeper: Client | None, *typed: str) -> list[str]:
    """Type into a new line editor, one entry after another, and return what it hands on."""
    with keyboard() as keys:
        lines = edited_lines(["/help"], {}, keeper)
        entered = []
        for text in typed:  # not all at once: keys that wait for the editor come before its history
            keys.send_text(f"{text}\r")
            entered.append(next(lines))
        keys.send_text(CTRL_D)
        assert list(lines) == []
    return entered


def kept(url: str) -> list[str]:
    return [entry["text"] for entry in Client(url).request("GET", "/api/terminal/history")["history"]]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_what_was_entered_comes_back_in_the_next_chat(house: House) -> None:
    with kept_in(house) as url:
        assert enter(Client(url), "first", "second", "  \rsecond") == ["first", "second", "second"]
        assert kept(url) == ["first", "second"]
    with kept_in(house) as url:
        assert enter(Client(url), UP) == ["second"]
        assert enter(Client(url), UP + UP, UP + UP + " again") == ["first", "second again"]
        assert kept(url) == ["first", "second", "first", "second again"]


def test_lines_of_one_entry_stay_together(house: House) -> None:
    with kept_in(house) as url:
        assert enter(Client(url), "\x1b[200~one\n  two\x1b[201~") == ["one\n  two"]
        assert kept(url) == ["one\n  two"]
        assert enter(Client(url), UP) == ["one\n  two"]


def test_without_a_keeper_it_can_be_called_back_but_is_not_kept(house: House) -> None:
    with kept_in(house) as url:
        enter(Client(url), "earlier")
        assert enter(None, "now", UP) == ["now", "now"]
        assert kept(url) == ["earlier"]


def test_what_the_server_does_not_keep_stays_in_memory(house: House) -> None:
    with kept_in(house, TerminalSettings(keep_history=False)) as url:
        assert enter(Client(url), "now", UP) == ["now", "now"]
        assert kept(url) == []
    with kept_in(house) as url:
        history = _kept_by(Client(url))
        history.append_string("x" * 100_001)
        history.append_string("short")
        assert history.get_strings() == ["x" * 100_001, "short"]
        assert kept(url) == ["short"]


def test_a_server_without_a_history_disturbs_nobody() -> None:
    with serving(FastAPI()) as url:
        assert enter(Client(url), "now", UP) == ["now", "now"]


@pytest.mark.parametrize("answer", [{"history": None}, {"history": [{"texts": "a"}]}, {}, [], None, "what"])
def test_an_answer_of_another_program_disturbs_nobody(answer: object) -> None:
    app = FastAPI()

    @app.get("/api/terminal/history")
    @app.post("/api/terminal/history")
    async def odd() -> object:
        return answer

    with serving(app) as url:
        assert enter(Client(url), "now", UP) == ["now", "now"]


def test_a_server_that_has_gone_disturbs_nobody(house: House) -> None:
    with kept_in(house) as url:
        enter(Client(url), "kept")
    assert enter(Client(url), "now", UP) == ["now", "now"]


def test_a_server_that_goes_in_mid_chat_disturbs_nobody(house: House) -> None:
    with contextlib.ExitStack() as server, keyboard() as keys:
        url = server.enter_context(kept_in(house))
        lines = edited_lines([], {}, Client(url))
        keys.send_text("before\r")
        assert next(lines) == "before"
        assert kept(url) == ["before"]
        server.close()
        keys.send_text("after\r")
        assert next(lines) == "after"
        keys.send_text(f"{UP}{UP}\r")
        assert next(lines) == "before"
    assert [thread.name for thread in threading.enumerate() if thread.name == "served"] == []


@pytest.mark.parametrize(
    ("no_history", "expected"), [(False, ["earlier", "/stats", "/exit"]), (True, ["earlier"])]
)
def test_a_chat_keeps_what_it_may(
    house: House, monkeypatch: pytest.MonkeyPatch, no_history: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with kept_in(house) as url:
        enter(Client(url), "earlier")
        with keyboard() as keys:
            keys.send_text("/stats\r/exit\r")
            chat(url=url, no_history=no_history, keep=False)
        assert kept(url) == expected
