"""`allod chat`: a conversation in the terminal.

What a person says is kept in a thread of the server's; what a program pipes in is not, unless it asks for a thread.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from allod.cli.failures import Failure
from allod.cli.options import Json, Model, Settings, Stats, System, Url, parse_settings
from allod.cli.words import say

if TYPE_CHECKING:
    from allod.cli.answer import Answer
    from allod.cli.chat_commands import Asking
    from allod.cli.client import Client
    from allod.cli.conversation import Conversation
    from allod.cli.plain_answer import Screen
    from allod.cli.thread import ThreadConversation


def chat(
    model: Model = "",
    system: System = None,
    settings: Settings = None,
    stats: Stats = False,
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", metavar="ID", help=say("Go on with this conversation."))
    ] = None,
    last: Annotated[bool, typer.Option("--last", help=say("Go on with the last one."))] = False,
    assistant: Annotated[
        str | None, typer.Option("--assistant", "-a", metavar="NAME", help=say("The assistant that answers."))
    ] = None,
    memory_only: Annotated[
        bool,
        typer.Option("--memory-only", help=say("In the server's memory only, and gone when you leave.")),
    ] = False,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--stateless",
            help=say(
                "Keep it as a thread (at a terminal the default), or let nothing but this command know of it."
            ),
        ),
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help=say("Keep nothing of what is typed in this chat."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Talk with a model. With --json: one object a line for each line of stdin."""
    from allod.cli.opening import Wanted
    from allod.cli.server import connect
    from allod.cli.thread import ThreadConversation

    is_live = sys.stdin.isatty() and sys.stdout.isatty() and not json
    wanted = Wanted(
        model, system or "", parse_settings(settings), stats, thread or "", last, assistant or "", memory_only
    )
    is_kept = wanted.is_kept(keep, is_live=is_live)
    with connect(url, preload=True) as client:
        conversation = wanted.thread_on(client) if is_kept else wanted.stateless_on(client)
        if not isinstance(conversation, ThreadConversation):
            _converse(conversation, client, is_live=is_live, keeps_history=not no_history, json=json)
            return
        with _left(conversation, is_live=is_live, json=json):
            keeps_history = not no_history and not conversation.is_memory_only
            _converse(conversation, client, is_live=is_live, keeps_history=keeps_history, json=json)


def _converse(
    conversation: Conversation, client: Client, *, is_live: bool, keeps_history: bool, json: bool
) -> None:
    if is_live:
        _talk(conversation, client, keeps_history=keeps_history)
    else:
        _read_through(conversation, json=json)


@contextmanager
def _left(conversation: ThreadConversation, *, is_live: bool, json: bool) -> Iterator[None]:
    """Inside, one talks; whatever ends it, what is in memory only is gone afterwards."""
    from allod.cli.output import note, tell

    said = ""
    with _ended_in_order(conversation.is_memory_only):
        try:
            yield
        finally:
            said = conversation.leave()
    if said and is_live:
        tell(said)
    elif said and conversation.is_own and not json:
        note(said)


def _talk(conversation: Conversation, client: Client, *, keeps_history: bool) -> None:
    """A conversation with a person: an error is told, and the conversation goes on."""
    from allod.cli.chat_commands import COMMANDS, Leave, choices, is_command, obey
    from allod.cli.chat_input import edited_lines
    from allod.cli.opening import greet
    from allod.cli.output import tell

    if asking := greet(conversation):
        with _told():
            _exchange(asking, conversation)
    for text in edited_lines(COMMANDS, choices(client), client if keeps_history else None):
        with _told():
            try:
                asked = (
                    obey(text.strip(), conversation, client)
                    if is_command(text)
                    else partial(conversation.ask, text.strip())
                )
            except Leave:
                return
            if isinstance(asked, str):
                tell(asked + "\n")
            else:
                _exchange(asked, conversation)


@contextmanager
def _told() -> Iterator[None]:
    """Inside, an error ends what was begun, and not the chat."""
    from allod.cli.output import tell

    try:
        yield
    except KeyboardInterrupt:  # an impatient second Ctrl-C: what hung is given up, the session stays
        tell("\n")
    except Failure as failure:
        tell(f"{say('Error: {detail}', detail=failure.detail)}\n{failure.fix}".strip() + "\n")


def _exchange(asking: Asking, conversation: Conversation) -> None:
    """Show the answer as it comes; Ctrl-C stops it and keeps what has come."""
    from allod.cli.answer import Answer, stats
    from allod.cli.chat_input import unseen_keys
    from allod.cli.live_answer import LiveScreen
    from allod.cli.output import tell

    answer = Answer()
    tell()
    with unseen_keys(), _ctrl_c_stops(conversation) as stopped:
        _show(asking, answer, LiveScreen())
    for said in conversation.ending(answer, is_stopped=bool(stopped)):
        tell(said)
    if conversation.shows_stats and answer.has_begun:
        tell(stats(answer))
    tell()


def _show(asking: Asking, answer: Answer, screen: Screen) -> None:
    with closing(asking(answer)) as pieces:
        first = next(pieces, None)  # before the screen is taken: progress bars may come first
        with screen:
            if first:
                screen.show(first)
            for piece in pieces:
                screen.show(piece)


def _read_through(conversation: Conversation, *, json: bool) -> None:
    """A conversation with a program: each line is a message, the first error ends it."""
    from allod.cli.answer import Answer, stats
    from allod.cli.chat_input import plain_lines
    from allod.cli.output import note, show_json
    from allod.cli.plain_answer import PlainScreen

    for text in plain_lines():
        answer = Answer()
        if json:
            with closing(conversation.ask(text, answer)) as pieces:
                for _ in pieces:
                    pass
            show_json(answer.facts(), one_line=True)
        else:
            _show(partial(conversation.ask, text), answer, PlainScreen())
        if conversation.shows_stats and not json:
            note(stats(answer))


@contextmanager
def _ctrl_c_stops(conversation: Conversation) -> Iterator[list[bool]]:
    """Inside, the first Ctrl-C ends the answer (the list is then not empty); a second one is a KeyboardInterrupt."""
    stopped: list[bool] = []

    def stop(number: int, frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)
        conversation.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ended_in_order(is_wanted: bool) -> Iterator[None]:
    """Inside, a closed window and a request to end leave by SystemExit, so that what must be done last is done."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    names = ("SIGHUP", "SIGTERM") if is_wanted else ()
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(each, signal.signal(each, leave)) for each in signals]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)
