"""Conversations that are threads, in the terminal: pure parts, and a run followed over a connection that breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from allod.cli import thread_run
from allod.cli.answer import Answer, Piece
from allod.cli.client import Client
from allod.cli.failures import Exit, Failure
from allod.cli.messages import heading, text_of
from allod.cli.opening import Wanted
from allod.cli.thread import ThreadConversation
from allod.cli.thread_files import _meant
from allod.cli.thread_run import ThreadRun, _rest
from allod.cli.thread_search import _day, _shell_phrase
from allod.cli.threads import _marks

NOWHERE = Client("http://127.0.0.1:9")  # where nobody listens


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def message(**fields: Any) -> dict[str, Any]:
    plain = {"id": "m1", "role": "assistant", "model": "smol", "status": "done", "error": None}
    return {**plain, "created_at": 0.0, "is_pinned": False, "parts": [text("Hi.")], **fields}


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([], ""),
        ([text("one "), text("text")], "one text"),
        ([{"type": "reasoning", "text": "Hm."}, text("Yes.")], "Yes."),
        ([text("See:"), {"type": "image", "name": "cat.png"}], "See:\n\n[image: cat.png]"),
        (
            [{"type": "tool_call", "name": "count"}, {"type": "tool_result", "text": "3"}],
            "[tool call: count]",
        ),
    ],
)
def test_the_text_of_a_message(parts: list[dict[str, Any]], shown: str) -> None:
    assert text_of(parts) == shown


def test_a_heading_says_who_when_and_how_it_ended() -> None:
    assert heading(message()).startswith("smol · 1970-01-0")
    assert heading(message(role="user", model="")).startswith("You · ")
    assert heading(message(status="stopped")).endswith(" · stopped")
    failed = message(status="error", error={"code": "x", "detail": "It fell.", "fix": ""})
    assert heading(failed).endswith(" · It fell.")
    assert heading(message(siblings=["m0", "m1", "m2"], is_pinned=True)).endswith(
        " · version 2 of 3 · pinned"
    )
    assert "version" not in heading(message(siblings=["m1"]))


def test_marks_are_words() -> None:
    thread = {"is_favourite": True, "run": {"id": "r"}, "is_memory_only": False, "tags": ["trip", "home"]}
    assert _marks(thread) == "favourite, is being answered, #trip, #home"


@pytest.mark.parametrize(
    ("whole", "known", "rest"),
    [
        ("abc", "", "abc"),
        ("abc", "ab", "c"),
        ("abc", "abc", ""),
        ("old new", "n", "ew"),
        ("One, tw", "One, two", ""),
        ("la la la", "la", " la la"),
    ],
)
def test_what_of_a_message_has_not_come_yet(whole: str, known: str, rest: str) -> None:
    assert _rest(whole, known) == rest


def test_words_that_the_shell_kept_together_are_a_phrase() -> None:
    assert [_shell_phrase(word) for word in ("cat", "grey cat", '"grey cat" dog', "小 猫")] == [
        "cat", '"grey cat"', '"grey cat" dog', '"小 猫"',
    ]  # fmt: skip


def test_a_day_begins_at_midnight_here() -> None:
    assert _day("2026-03-02") - _day("2026-03-01") in (82800, 86400, 90000)
    for typed in ("yesterday", "2026-13-01", "2026-02-30", ""):
        with pytest.raises(Failure) as caught:
            _day(typed)
        assert caught.value.exit_code == Exit.USAGE


def test_what_is_to_be_exported() -> None:
    assert _meant(["t1"], everything=False) == ("t1", None)
    assert _meant(["t1", "a.md"], everything=False) == ("t1", Path("a.md"))
    assert _meant([], everything=True) == ("", None)
    assert _meant(["all.json"], everything=True) == ("", Path("all.json"))
    wrong: list[tuple[list[str], bool]] = [([], False), (["t1", "a", "b"], False), (["a", "b"], True)]
    for words, everything in wrong:
        with pytest.raises(Failure) as caught:
            _meant(words, everything=everything)
        assert caught.value.exit_code == Exit.USAGE


# which conversation


def wanted(**fields: Any) -> Wanted:
    plain: dict[str, Any] = {"model": "", "system": "", "settings": {}, "shows_stats": False}
    return Wanted(**{**plain, "thread": "", "last": False, "assistant": "", "memory_only": False, **fields})


def test_a_person_gets_a_thread_and_a_program_on_demand() -> None:
    assert wanted().is_kept(None, is_live=True)
    assert not wanted().is_kept(None, is_live=False)
    assert wanted().is_kept(True, is_live=False)
    assert not wanted().is_kept(False, is_live=True)
    for asked in ({"thread": "t"}, {"last": True}, {"assistant": "Ana"}, {"memory_only": True}):
        assert wanted(**asked).is_kept(None, is_live=False)


@pytest.mark.parametrize(
    ("fields", "keep", "reason"),
    [
        ({"thread": "t", "last": True}, None, "Only one"),
        ({"thread": "t", "memory_only": True}, None, "Only one"),
        ({"last": True, "memory_only": True}, None, "Only one"),
        ({"assistant": "Ana"}, False, "--stateless"),
        ({"memory_only": True}, False, "--stateless"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    fields: dict[str, Any], keep: bool | None, reason: str
) -> None:
    with pytest.raises(Failure, match=reason) as caught:
        wanted(**fields).is_kept(keep, is_live=True)
    assert caught.value.exit_code == Exit.USAGE
    assert caught.value.fix


# how an answer ends


def test_an_ending_says_what_became_of_the_question() -> None:
    thread = ThreadConversation(NOWHERE)
    whole = Answer(text="Yes.", finish_reason="stop")
    assert thread.ending(whole, is_stopped=False) == []
    assert thread.ending(Answer(), is_stopped=True) == [
        "(stopped before the answer began; /again asks once more)"
    ]
    assert thread.ending(Answer(text="Y", finish_reason="stopped"), is_stopped=False) == ["(stopped)"]
    cut = thread.ending(Answer(text="Y", finish_reason="length", left_out=12), is_stopped=False)
    assert "/continue" in cut[0]
    assert "12 earlier messages" in cut[1]


def test_nothing_is_gone_on_with_or_saved_before_there_is_an_answer() -> None:
    thread = ThreadConversation(NOWHERE)
    for act in (lambda: next(thread.again(Answer())), lambda: next(thread.go_on(Answer())), thread.as_json):
        with pytest.raises(Failure, match="no answer yet"):
            act()
    assert thread.leave() == ""
    assert thread.reset() == "The conversation begins anew."


# a run, followed


def sse(number: int, event: str, **data: Any) -> bytes:
    return f"id: {number}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()


ENDED = {
    "role": "assistant",
    "model": "smol",
    "seed": 7,
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "timings": {"total_s": 0.1},
    "error": None,
}


@contextmanager
def telling(*answers: bytes) -> Iterator[tuple[Client, list[tuple[str, str]]]]:
    """A server that answers one GET after the other so, each connection closed behind; and what it was asked."""
    asked: list[tuple[str, str]] = []
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Last-Event-ID", "")))
            body = next(left)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append((self.path, ""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *about: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{server.server_address[1]}"), asked
        finally:
            server.shutdown()
            thread.join()


def joined(client: Client, answer: Answer) -> ThreadRun:
    run = ThreadRun(client, answer)
    run.join("t1", "r1")
    return run


def test_a_run_is_followed_over_a_connection_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_run, "_PAUSE_S", 0)
    first = (
        sse(1, "state", state="queued", place=0) + sse(2, "reasoning", text="Hm.") + sse(3, "text", text="O")
    )
    second = sse(4, "text", text="ne.") + sse(
        5, "ended", state="done", message={**ENDED, "parts": [text("One.")]}
    )
    with telling(first, b"", second) as (client, asked):
        answer = Answer()
        pieces = list(joined(client, answer).pieces())
    assert pieces == [Piece("thought", "Hm."), Piece("text", "O"), Piece("text", "ne.")]
    assert [last_id for _, last_id in asked] == ["", "3", "3"]
    assert (answer.text, answer.thought, answer.finish_reason) == ("One.", "Hm.", "stop")
    facts = answer.facts()
    assert (facts["thread"], facts["model"], facts["seed"]) == ("t1", "smol", 7)
    assert facts["usage"] == ENDED["usage"]


def test_a_run_that_ended_with_the_server_gives_the_rest_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_run, "_PAUSE_S", 0)
    kept = {**ENDED, "parts": [text("One, tw")]}
    with telling(sse(1, "text", text="One"), sse(0, "snapshot", state="interrupted", message=kept)) as (
        client,
        _,
    ):
        answer = Answer()
        with pytest.raises(Failure, match="interrupted") as caught:
            list(joined(client, answer).pieces())
    assert answer.text == "One, tw"
    assert caught.value.exit_code == Exit.ENGINE_FAILED
    assert "allod chat --thread t1" in caught.value.fix


def test_an_error_of_a_run_has_its_exit_code() -> None:
    error = {"code": "model_too_large", "detail": "It does not fit.", "fix": "Take a smaller one."}
    failed = {**ENDED, "parts": [], "error": error}
    with telling(sse(1, "ended", state="error", message=failed)) as (client, asked):
        with pytest.raises(Failure, match="does not fit") as caught:
            list(joined(client, Answer()).pieces())
    assert (caught.value.exit_code, caught.value.fix) == (Exit.NOT_LOADED, "Take a smaller one.")
    assert len(asked) == 1  # what has ended is not stopped


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_run, "_PAUSE_S", 0)
    with pytest.raises(Failure) as caught:
        list(joined(NOWHERE, Answer()).pieces())
    assert caught.value.exit_code == Exit.UNREACHABLE


def test_a_run_that_is_left_early_is_stopped() -> None:
    with telling(sse(1, "text", text="One") + sse(2, "text", text="more")) as (client, asked):
        pieces = joined(client, Answer()).pieces()
        assert next(pieces) == Piece("text", "One")
        pieces.close()
    assert [path for path, _ in asked] == [
        "/api/conversational/runs/r1/events",
        "/api/conversational/runs/r1/stop",
    ]


def test_a_tool_call_comes_in_pieces() -> None:
    call = {"index": 0, "id": "c1", "name": "count", "arguments": '{"a"'}
    body = (
        sse(1, "context", model="smol", left_out=4, is_cut_anew=True)
        + sse(2, "tool_call", **call)
        + sse(3, "tool_call", index=0, id="", name="", arguments=": 1}")
        + sse(4, "ended", state="done", message={**ENDED, "parts": []})
    )
    answer = Answer()
    with telling(body) as (client, _):
        list(joined(client, answer).pieces())
    (made,) = answer.tool_calls
    assert (made["id"], made["function"]) == ("c1", {"name": "count", "arguments": '{"a": 1}'})
    assert answer.left_out == 4
