"""One run of a thread: it is begun, followed by its events, and stopped where its pieces are left early."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

from allod.cli.answer import Answer, Piece, add_call
from allod.cli.client import Client, SentEvent
from allod.cli.failures import Exit, Failure, from_run
from allod.cli.messages import text_of
from allod.cli.waiting import Waiting
from allod.cli.words import say

THREADS = "/api/conversational/threads"
_LAST = ("ended", "snapshot")
_TRIES = 20
_PAUSE_S = 0.5
_STOP_TIMEOUT_S = 20
_REASONS = {"done": "stop"}
"""Why an answer ends, as /v1 says it, by the state of its run; all others are the same word."""


def thread_path(thread: str, rest: str = "") -> str:
    """The address of a thread."""
    return f"{THREADS}/{quote(thread, safe='')}{rest}"


class ThreadRun:
    """A run that fills `answer`. The server works on it whoever listens, so a lost connection loses nothing."""

    def __init__(self, client: Client, answer: Answer) -> None:
        self._client = client
        self._answer = answer
        self._run = ""
        self._is_stopped = False
        self._started = time.monotonic()

    def begin(self, thread: str, body: dict[str, Any]) -> str:
        """Begin a run in a thread; what it gives is the id of the message that is written. Raises Failure."""
        asked = {
            **body,
            "queue": False,
        }  # a person waits for this answer, and sees that another one is on its way
        begun = self._client.request("POST", thread_path(thread, "/runs"), asked, timeout_s=60)
        self._answer.thread = thread
        self._run = str(begun["run"])
        if self._is_stopped:  # meanwhile
            self._stop()
        return str(begun["answer"]["id"])

    def join(self, thread: str, run: str) -> None:
        """Take up a run that others have begun."""
        self._answer.thread = thread
        self._run = run

    def stop(self) -> None:
        """End it where it is, without waiting for it; may be called by a signal handler."""
        self._is_stopped = True
        if self._run:
            threading.Thread(target=self._stop, daemon=True).start()

    def pieces(self) -> Generator[Piece]:
        """The answer's pieces, as they come. Raises Failure where it ends by an error."""
        answer = self._answer
        try:
            with Waiting() as waiting, closing(self._events()) as events:
                for event in events:
                    for piece in _pieces(event, answer, waiting):
                        waiting.close()
                        if answer.first_piece_s is None:
                            answer.first_piece_s = round(time.monotonic() - self._started, 4)
                        yield piece
        finally:
            answer.whole_s = time.monotonic() - self._started
            if answer.finish_reason is None:
                self._stop()

    def _stop(self) -> None:
        with suppress(Failure):  # a server that cannot be reached ends the events too, which tell of it
            self._client.request("POST", f"{_run_path(self._run)}/stop", timeout_s=_STOP_TIMEOUT_S)

    def _events(self) -> Generator[SentEvent]:
        """All events of the run up to its last one, also over connections that break off."""
        last_id, failed = "", 0
        while True:
            try:
                with closing(self._client.follow(f"{_run_path(self._run)}/events", last_id)) as events:
                    for event in events:
                        last_id, failed = event.id or last_id, 0
                        yield event
                        if event.name in _LAST:
                            return
            except Failure as failure:
                if failure.exit_code is not Exit.UNREACHABLE or failed >= _TRIES:
                    raise
            failed += 1
            time.sleep(_PAUSE_S)


def _run_path(run: str) -> str:
    return f"/api/conversational/runs/{quote(run, safe='')}"


def _pieces(event: SentEvent, answer: Answer, waiting: Waiting) -> Iterator[Piece]:
    data = event.data
    match event.name:
        case "state":
            _show_state(data, answer, waiting)
        case "context":
            answer.model = str(data.get("model") or "")
            answer.left_out = int(data.get("left_out") or 0) if data.get("is_cut_anew") else 0
        case "reasoning":
            answer.thought += data["text"]
            yield Piece("thought", data["text"])
        case "text":
            answer.text += data["text"]
            yield Piece("text", data["text"])
        case "tool_call":
            call = {"name": data.get("name"), "arguments": data.get("arguments")}
            add_call(answer.tool_calls, {"index": data.get("index"), "id": data.get("id"), "function": call})
        case "ended":
            _settle(answer, data)
        case "snapshot":  # the run ended long ago, or with the server
            if rest := _rest(text_of(data["message"]["parts"]), answer.text):
                answer.text += rest
                yield Piece("text", rest)
            _settle(answer, data)


def _show_state(data: dict[str, Any], answer: Answer, waiting: Waiting) -> None:
    match data.get("state"):
        case "queued":
            waiting.queued(int(data.get("place") or 0))
        case "loading":
            waiting.loading(answer.model, int(data.get("bytes") or 0) / max(1, int(data.get("total") or 0)))
        case "reading":
            waiting.reading(*(int(data.get(name) or 0) for name in ("done", "total", "cached")))


def _rest(whole: str, known: str) -> str:
    """What of a message has not come yet. A run that goes on with a message knows nothing of its beginning.

    Nothing where more had come than was kept when the server ended.
    """
    if not known or whole.startswith(known):
        return whole[len(known) :]
    _, found, rest = whole.rpartition(known)
    return rest if found else ""


def _settle(answer: Answer, data: dict[str, Any]) -> None:
    """Take over what is kept of the answer. Raises Failure where it was not ended in order."""
    message = data["message"]
    state = str(data["state"])
    answer.finish_reason = _REASONS.get(state, state)
    answer.model = message["model"] or answer.model
    answer.seed = message["seed"]
    answer.usage = message["usage"] or None
    answer.timings = message["timings"] or None
    if state == "error":
        raise from_run(message["error"] or {})
    if state == "interrupted":
        raise Failure(
            say("The answer was interrupted: the server ended before it was whole. What had come is kept."),
            fix=say("In `allod chat --thread {thread}`, /continue goes on with it.", thread=answer.thread),
            exit_code=Exit.ENGINE_FAILED,
        )
