"""A conversation that is a thread of the server's: kept there from its first question on, or in its memory only."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from allod.cli.answer import Answer, Piece
from allod.cli.client import Client
from allod.cli.failures import Exit, Failure
from allod.cli.thread_run import THREADS, ThreadRun, thread_path
from allod.cli.words import say

_ASSISTANTS = "/api/assistant/assistants"
_HELD = ("model", "assistant", "instructions", "parameters")
"""What a thread holds for all its questions."""
_UNSEEN = (Exit.NOT_ALLOWED, Exit.NOT_FOUND)
"""An assistant that was deleted, an extension that is off, a key without its right."""


@dataclass(slots=True)
class ThreadConversation:
    """Implements Conversation. `id` is empty until the first question makes the thread.

    `model` is the model that answers, whoever chose it, and `assistant_name` the assistant; `assistant` is its id,
    empty for whichever is the default one. `system` comes behind its instructions. All of these and `settings` are kept
    with the thread, so that it goes on as it was.
    """

    client: Client
    is_memory_only: bool = False
    id: str = ""
    model: str = ""
    assistant: str = ""
    assistant_name: str = ""
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    shows_stats: bool = False
    last: Answer | None = None
    saved_to: set[Path] = field(default_factory=set)
    is_own: bool = True
    answer: str = ""
    _usual_model: str = ""
    _known: dict[str, Any] = field(default_factory=dict)
    _run: ThreadRun | None = None

    # what answers

    def choose_model(self, name: str) -> None:
        """Let the model of this name or alias answer. Raises Failure where there is none."""
        self.model = resolved(self.client, name)

    def choose_assistant(self, name: str, *, at_first: bool = False) -> None:
        """Let an assistant answer, with its model unless another one was chosen. Raises Failure.

        Only `at_first`, while nothing was typed yet, can one whose chats leave no trace make this one memory-only.
        """
        found = self.client.request("GET", f"{_ASSISTANTS}/{quote(name, safe='')}")
        self.is_memory_only |= found["memory_only"] and at_first
        if found["memory_only"] and not self.is_memory_only:
            raise Failure(
                say("The chats of {name} are never kept, and this one is.", name=found["name"]),
                fix=say("Begin another: `allod chat --assistant NAME`."),
                exit_code=Exit.BAD_REQUEST,
            )
        self.assistant, self.assistant_name = str(found["id"]), str(found["name"])
        self._settle_model(found["model"])

    def use_default_assistant(self) -> None:
        """Let the default assistant answer, and its model. Raises Failure.

        Who may not look at assistants, or has none, leaves it to the server, and sees its default model named.
        """
        self.assistant, self.assistant_name, model = "", "", ""
        try:
            found = self.client.request("GET", _ASSISTANTS)
            chosen = next(each for each in found["assistants"] if each["is_default"])
            self.assistant_name, model = str(chosen["name"]), str(chosen["model"])
            self.is_memory_only |= chosen["memory_only"] and not self.id
        except Failure as failure:
            if failure.exit_code not in _UNSEEN:
                raise
        self._settle_model(model)

    def _settle_model(self, usual: str) -> None:
        usual = resolved(self.client, usual or "default")
        if self.model in ("", self._usual_model):
            self.model = usual
        self._usual_model = usual

    def take_up(self, id: str) -> None:
        """Go on with a thread that is there. What was chosen already goes before what it holds. Raises Failure."""
        found = self.client.request("GET", thread_path(id, "?limit=2"))
        thread = found["thread"]
        self.id, self.is_own = str(thread["id"]), False
        self.is_memory_only = bool(thread["is_memory_only"])
        self.answer = next((each["id"] for each in found["messages"] if each["role"] == "assistant"), "")
        self._known = {name: thread[name] for name in _HELD}
        self.settings = {**thread["parameters"], **self.settings}
        self.model = self.model or thread["model"]
        self.system = self.system or thread["instructions"]
        if thread["assistant"]:
            try:
                self.choose_assistant(thread["assistant"])
            except Failure as failure:
                if failure.exit_code not in _UNSEEN:
                    raise
                if failure.exit_code is Exit.NOT_ALLOWED:  # else it was deleted: the default one goes on
                    self.assistant = thread["assistant"]
                    self._settle_model("")

    # questions

    def ask(self, text: str, answer: Answer) -> Generator[Piece]:
        """Ask, behind what was said last."""
        yield from self._answered({"input": text}, answer)

    def again(self, answer: Answer) -> Generator[Piece]:
        """Have the last question answered once more; the answer before stays as another version."""
        yield from self._answered({"regenerate": self._last_answer()}, answer)

    def go_on(self, answer: Answer) -> Generator[Piece]:
        """Go on with the last answer, which was stopped or cut."""
        yield from self._answered({"continue": self._last_answer()}, answer)

    def follow(self, run: str, answer: Answer) -> Generator[Piece]:
        """Follow a run that has begun already."""
        self._run = ThreadRun(self.client, answer)
        self._run.join(self.id, run)
        yield from self._heard(self._run, answer)

    def _last_answer(self) -> str:
        if not self.answer:
            raise Failure(say("There is no answer yet."), fix=say("Ask something."), exit_code=Exit.USAGE)
        return self.answer

    def _answered(self, body: dict[str, Any], answer: Answer) -> Generator[Piece]:
        answer.model = self.model
        self._run = ThreadRun(self.client, answer)
        self._bring_up_to_date()
        self.answer = self._run.begin(self.id, body)
        yield from self._heard(self._run, answer)

    def _heard(self, run: ThreadRun, answer: Answer) -> Generator[Piece]:
        try:
            with closing(run.pieces()) as pieces:
                yield from pieces
        finally:
            self._run = None
            if answer.has_begun:
                self.last = answer

    def _bring_up_to_date(self) -> None:
        """Make the thread, or let it hold what was chosen since."""
        wanted = {
            "model": "" if self.model == self._usual_model else self.model,
            "assistant": self.assistant,
            "instructions": self.system,
            "parameters": dict(self.settings),
        }
        if not self.id:
            made = self.client.request("POST", THREADS, {**wanted, "memory_only": self.is_memory_only})
            self.id, self.is_memory_only = str(made["id"]), bool(made["is_memory_only"])
        elif wanted != self._known:
            self.client.request("PATCH", thread_path(self.id), wanted)
        self._known = wanted

    # what a person is told

    def stop(self) -> None:
        """Let the run end where it is; its last event comes then."""
        if self._run is not None:
            self._run.stop()

    def ending(self, answer: Answer, *, is_stopped: bool) -> list[str]:
        """Why it ends where it does, and what the model was not told."""
        told = []
        if is_stopped and not answer.has_begun:
            told.append(say("(stopped before the answer began; /again asks once more)"))
        elif is_stopped or answer.finish_reason == "stopped":
            told.append(say("(stopped)"))
        if answer.finish_reason == "length":
            told.append(
                say(
                    "(cut: the answer reached its longest length; /continue goes on, "
                    "/set max_tokens N allows more)"
                )
            )
        if answer.left_out:
            told.append(
                say(
                    "(the conversation is too long for the model: it was not told of {count} earlier messages)",
                    count=answer.left_out,
                )
            )
        return told

    def reset(self) -> str:
        """The next question makes a new thread. One in memory only that this chat has made is deleted."""
        kept, self.id, self.answer, self.last = self.id, "", "", None
        if kept and self.is_memory_only:
            self._forget(kept)
        self.is_own = True
        if not kept or self.is_memory_only:
            return say("The conversation begins anew.")
        return say("The conversation begins anew. The one before is kept: {thread}", thread=kept)

    def leave(self) -> str:
        """Delete the thread if it is in memory only and this chat's own. What a person is told, "" for nothing."""
        if not self.id:
            return ""
        if self.is_memory_only:
            self._forget(self.id)
            return ""
        return say("Kept: `allod chat --thread {thread}` goes on with it.", thread=self.id)

    def _forget(self, thread: str) -> None:
        if not self.is_own:
            return
        try:
            self.client.request("DELETE", thread_path(thread), timeout_s=60)
        except Failure as failure:
            if failure.exit_code is not Exit.NOT_FOUND:  # it had ended by itself, as such threads do
                raise

    # what is saved

    def as_json(self) -> str:
        """The whole thread with all its branches, as `allod threads import` reads it."""
        return self._exported("json")

    def as_markdown(self) -> str:
        """The branch that is shown."""
        return self._exported("md")

    def _exported(self, format: str) -> str:
        if not self.id:
            raise Failure(say("There is no answer yet."), fix=say("Ask something."), exit_code=Exit.USAGE)
        pieces = self.client.download(thread_path(self.id, f"/export?format={format}"))
        return b"".join(pieces).decode("utf-8")


def resolved(client: Client, name: str) -> str:
    """The name of the model that an alias stands for. Raises Failure if the server does not know it."""
    found = client.request("GET", f"/v1/models/{quote(name, safe='')}")
    return str((found.get("allod") or {}).get("alias_of") or found["id"])


def newest_thread(client: Client) -> str:
    """The id of the thread that changed last and is kept. Raises Failure where there is none."""
    found = client.request("GET", f"{THREADS}?limit=1")["threads"]
    for thread in found:
        if not thread["is_memory_only"]:
            return str(thread["id"])
    raise Failure(
        say("There is no conversation yet."), fix=say("`allod chat` begins one."), exit_code=Exit.NOT_FOUND
    )
