"""How a chat begins: which conversation its options ask for, and what a person sees of it first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from allod.cli.failures import Exit, Failure
from allod.cli.stateless import StatelessConversation
from allod.cli.thread import ThreadConversation, newest_thread, resolved
from allod.cli.thread_run import THREADS, thread_path
from allod.cli.words import say

if TYPE_CHECKING:
    from allod.cli.chat_commands import Asking
    from allod.cli.client import Client
    from allod.cli.conversation import Conversation

_SHOWN_AT_FIRST = 4
_WITHOUT_THREADS = (401, 403, 404)
"""Answers of a server that may still be asked by /v1."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of `allod chat` that choose its conversation."""

    model: str
    system: str
    settings: dict[str, Any]
    shows_stats: bool
    thread: str
    last: bool
    assistant: str
    memory_only: bool

    def is_kept(self, keep: bool | None, *, is_live: bool) -> bool:
        """Whether it is a thread: what a person says is, what a program says only on demand. Raises Failure."""
        asks_for_thread = bool(self.thread or self.last or self.assistant or self.memory_only)
        if keep is False and asks_for_thread:
            raise _contradiction(say("--stateless knows no threads and no assistants."))
        if (self.thread and self.last) or (self.memory_only and (self.thread or self.last)):
            raise _contradiction(say("Only one of --thread, --last and --memory-only can be given."))
        return keep if keep is not None else is_live or asks_for_thread

    def stateless_on(self, client: Client) -> StatelessConversation:
        """A conversation that no server keeps."""
        model = self.model or "default"
        return StatelessConversation(client, model, self.system, self.settings, shows_stats=self.shows_stats)

    def thread_on(self, client: Client) -> ThreadConversation:
        """A thread, new or gone on with. Raises Failure, also where the server keeps no threads."""
        _check_threads(client)
        thread = self.thread or (newest_thread(client) if self.last else "")
        conversation = ThreadConversation(
            client,
            self.memory_only,
            system=self.system,
            settings=self.settings,
            shows_stats=self.shows_stats,
        )
        if self.model:
            conversation.choose_model(self.model)
        if thread:
            conversation.take_up(thread)
        if self.assistant:
            conversation.choose_assistant(self.assistant, at_first=not thread)
        elif not conversation.assistant:
            conversation.use_default_assistant()
        return conversation


def _contradiction(detail: str) -> Failure:
    return Failure(detail, fix=say("`allod chat --help` says what each does."), exit_code=Exit.USAGE)


def _check_threads(client: Client) -> None:
    """Raises Failure, with the way round, where the server keeps no threads for this caller."""
    try:
        client.request("GET", f"{THREADS}?limit=1")
    except Failure as failure:
        if failure.status not in _WITHOUT_THREADS:
            raise
        detail, fix = failure.detail, failure.fix
        if failure.exit_code is Exit.NOT_FOUND:
            detail, fix = say("This server keeps no conversations: its extension conversational is off."), ""
        way_round = say("`allod chat --stateless` talks without keeping anything.")
        raise Failure(
            detail, fix=f"{fix}\n{way_round}".strip(), exit_code=failure.exit_code, status=failure.status
        ) from failure


def greet(conversation: Conversation) -> Asking | None:
    """Say who answers, and show the end of what was said before; what is given follows a run that answers now.

    Raises Failure if the server does not know the model.
    """
    from allod.cli.output import tell

    if isinstance(conversation, ThreadConversation):
        return _greet_thread(conversation)
    assert isinstance(conversation, StatelessConversation)
    conversation.model = resolved(conversation.client, conversation.model)
    tell(f"{conversation.model} · {say('stateless')} · {_help()}\n")
    return None


def _greet_thread(conversation: ThreadConversation) -> Asking | None:
    from allod.cli.messages import show_message
    from allod.cli.output import tell

    facts = [
        conversation.assistant_name if conversation.assistant else "",
        conversation.model,
        say("memory-only") if conversation.is_memory_only else "",
        _help(),
    ]
    tell(" · ".join(fact for fact in facts if fact) + "\n")
    if not conversation.id:
        return None
    path = thread_path(conversation.id, f"?limit={_SHOWN_AT_FIRST}")
    found = conversation.client.request("GET", path)
    run = found["run"]
    for message in found["messages"]:
        if run is None or message["id"] != run["message"]:
            show_message(message)
    return partial(conversation.follow, run["id"]) if run else None


def _help() -> str:
    return say("/help lists the commands, Ctrl-D leaves")
