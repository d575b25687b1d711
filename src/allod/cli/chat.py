"""`allod chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from allod.cli.failures import Failure
from allod.cli.options import Json, Model, Settings, Stats, System, Url, parse_settings
from allod.cli.words import say

if TYPE_CHECKING:
    from allod.cli.answer import Answer
    from allod.cli.client import Client
    from allod.cli.conversation import Conversation
    from allod.cli.plain_answer import Screen


def chat(
    model: Model = "default",
    system: System = None,
    settings: Settings = None,
    stats: Stats = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help=say("Keep nothing of what is typed in this chat."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Talk with a model. With --json: one object a line for each line of stdin."""
    from allod.cli.conversation import Conversation
    from allod.cli.server import connect

    conversation = Conversation(model, system or "", parse_settings(settings), shows_stats=stats)
    is_live = sys.stdin.isatty() and sys.stdout.isatty() and not json
    with connect(url, preload=True) as client:
        if is_live:
            _talk(conversation, client, keeps_history=not no_history)
        else:
            _read_through(conversation, client, json=json)


def _talk(conversation: Conversation, client: Client, *, keeps_history: bool) -> None:
    """A conversation with a person: an error is told, and the conversation goes on."""
    from allod.cli.chat_commands import COMMANDS, Leave, is_command, model_names, obey
    from allod.cli.chat_input import edited_lines
    from allod.cli.output import tell

    def names() -> list[str]:
        with contextlib.suppress(Failure):
            return model_names(client)
        return []

    _greet(conversation, client)
    for text in edited_lines(COMMANDS, names, client if keeps_history else None):
        try:
            if is_command(text):
                tell(obey(text.strip(), conversation, client) + "\n")
            else:
                _exchange(text.strip(), conversation, client)
        except Leave:
            return
        except KeyboardInterrupt:  # an impatient second Ctrl-C: what hung is given up, the session stays
            tell("\n")
        except Failure as failure:
            tell(f"{say('Error: {detail}', detail=failure.detail)}\n{failure.fix}".strip() + "\n")


def _greet(conversation: Conversation, client: Client) -> None:
    """Say who answers. Raises Failure if the server does not know the model."""
    from urllib.parse import quote

    from allod.cli.output import tell

    found = client.request("GET", f"/v1/models/{quote(conversation.model, safe='')}")
    conversation.model = (found.get("allod") or {}).get("alias_of") or found["id"]
    tell(f"{conversation.model} · {say('/help lists the commands, Ctrl-D leaves')}\n")


def _exchange(text: str, conversation: Conversation, client: Client) -> None:
    """Ask and show the answer as it comes; Ctrl-C stops it and keeps what has come."""
    from allod.cli.answer import Answer, stats
    from allod.cli.chat_input import unseen_keys
    from allod.cli.live_answer import LiveScreen
    from allod.cli.output import tell

    answer = Answer()
    tell()
    try:
        with unseen_keys(), _ctrl_c_stops(client) as stopped:
            _show(text, answer, conversation, client, LiveScreen())
    finally:
        is_kept = conversation.add(text, answer)
    if stopped:
        tell(
            say("(stopped)") if is_kept else say("(stopped before the answer began; the question is dropped)")
        )
    if answer.finish_reason == "length":
        tell(say("(cut: the answer reached its longest length; /set max_tokens N allows more)"))
    if conversation.shows_stats and is_kept:
        tell(stats(answer))
    tell()


def _show(text: str, answer: Answer, conversation: Conversation, client: Client, screen: Screen) -> None:
    from allod.cli.answer import listen

    with contextlib.closing(listen(client, conversation.question(text), answer)) as pieces:
        first = next(pieces, None)  # before the screen is taken: progress bars may come first
        with screen:
            if first:
                screen.show(first)
            for piece in pieces:
                screen.show(piece)


def _read_through(conversation: Conversation, client: Client, *, json: bool) -> None:
    """A conversation with a program: each line is a message, the first error ends it."""
    from allod.cli.answer import Answer, listen, stats
    from allod.cli.chat_input import plain_lines
    from allod.cli.output import note, show_json
    from allod.cli.plain_answer import PlainScreen

    for text in plain_lines():
        answer = Answer()
        if json:
            for _ in listen(client, conversation.question(text), answer):
                pass
            show_json(answer.facts(), one_line=True)
        else:
            _show(text, answer, conversation, client, PlainScreen())
        conversation.add(text, answer)
        if conversation.shows_stats and not json:
            note(stats(answer))


@contextlib.contextmanager
def _ctrl_c_stops(client: Client) -> Iterator[list[bool]]:
    """Inside, the first Ctrl-C ends the answer (the list is then not empty); a second one is a KeyboardInterrupt."""
    stopped: list[bool] = []

    def stop(number: int, frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)
        client.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
