"""The commands of a chat session: lines that begin with a slash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from allod.cli.answer import Answer, Piece, stats
from allod.cli.client import Client
from allod.cli.conversation import Conversation, save
from allod.cli.failures import Failure
from allod.cli.options import parse_setting
from allod.cli.thread import ThreadConversation
from allod.cli.words import say

Asking: TypeAlias = Callable[[Answer], Generator[Piece]]
"""Has something answered: fills the answer, and yields its pieces as they come."""


class Leave(Exception):
    """The person wants to leave the chat."""


def is_command(line: str) -> bool:
    """Whether a line is a command and no message; a message that begins with a slash is written after a space."""
    return line.startswith("/")


def obey(line: str, conversation: Conversation, client: Client) -> str | Asking:
    """Do what a command says. What to tell the person, or what is to be answered. Raises Failure, or Leave."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise Failure(
            say("There is no command {name}.", name=name),
            fix=say("/help lists them. To send a message that begins with a slash, put a space before it."),
        )
    return command(rest.strip(), conversation, client)


def _model(rest: str, conversation: Conversation, client: Client) -> str:
    known = _model_names(client)
    if rest:
        conversation.model = _chosen(rest, known, say("There is no model {name}.", name=repr(rest)))
        return say("{model} answers from now on.", model=conversation.model)
    return "\n".join(f"{'*' if name == conversation.model else ' '} {name}" for name in known)


def _assistant(rest: str, conversation: Conversation, client: Client) -> str:
    thread = _as_thread(conversation)
    known = _assistant_names(client)
    if rest:
        thread.choose_assistant(_chosen(rest, known, say("There is no assistant {name}.", name=repr(rest))))
        return say("{model} answers from now on.", model=thread.assistant_name)
    return "\n".join(f"{'*' if name == thread.assistant_name else ' '} {name}" for name in known)


def choices(client: Client) -> Mapping[str, Callable[[], list[str]]]:
    """What may stand behind which command; nothing where the server does not tell."""

    def of(names: Callable[[Client], list[str]]) -> list[str]:
        with suppress(Failure):
            return names(client)
        return []

    return {"/model": lambda: of(_model_names), "/assistant": lambda: of(_assistant_names)}


def _model_names(client: Client) -> list[str]:
    return [model["id"] for model in client.request("GET", "/v1/models")["data"]]


def _assistant_names(client: Client) -> list[str]:
    return [each["name"] for each in client.request("GET", "/api/assistant/assistants")["assistants"]]


def _chosen(wanted: str, known: list[str], detail: str) -> str:
    """The one with this name, or the only one whose name begins so. Raises Failure with `detail`."""
    if wanted in known:
        return wanted
    beginning_so = [name for name in known if name.lower().startswith(wanted.lower())]
    if len(beginning_so) == 1:
        return beginning_so[0]
    raise Failure(detail, fix=say("Known are: {names}", names=", ".join(known)))


def _as_thread(conversation: Conversation) -> ThreadConversation:
    if isinstance(conversation, ThreadConversation):
        return conversation
    raise Failure(say("This conversation is no thread."), fix=say("`allod chat` without --stateless is one."))


def _again(rest: str, conversation: Conversation, client: Client) -> Asking:
    return _as_thread(conversation).again


def _continue(rest: str, conversation: Conversation, client: Client) -> Asking:
    return _as_thread(conversation).go_on


def _system(rest: str, conversation: Conversation, client: Client) -> str:
    if not rest:
        return conversation.system or say("There are no instructions.")
    if rest == "-":
        conversation.system = ""
        return say("There are no instructions any more.")
    conversation.system = rest
    return say("These are the instructions from now on.")


def _set(rest: str, conversation: Conversation, client: Client) -> str:
    name, *value = re.split(r"[\s=]+", rest, maxsplit=1)
    if value:
        conversation.settings[name] = parse_setting(name, value[0])
    elif name in conversation.settings:
        del conversation.settings[name]
    elif name:
        raise Failure(
            say("{name} is not set.", name=repr(name)),
            fix=say("/set NAME VALUE sets a field of the request."),
        )
    shown = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in conversation.settings.items()
    ]
    return "\n".join(shown) or say("Nothing is set; the model's own settings hold.")


def _stats(rest: str, conversation: Conversation, client: Client) -> str:
    conversation.shows_stats = not conversation.shows_stats
    if not conversation.shows_stats:
        return say("Figures are no longer shown.")
    said = say("Figures are shown after each answer from now on.")
    return f"{said}\n{stats(conversation.last)}" if conversation.last else said


def _reset(rest: str, conversation: Conversation, client: Client) -> str:
    return conversation.reset()


def _save(rest: str, conversation: Conversation, client: Client) -> str:
    if not rest:
        raise Failure(
            say("/save needs the name of a file."),
            fix=say("Its ending .json gives JSON, any other Markdown."),
        )
    save(conversation, Path(rest))
    return say("Saved to {path}.", path=rest)


def _help(rest: str, conversation: Conversation, client: Client) -> str:
    lines = [
        ("/model [NAME]", say("list the models, or choose the one that answers")),
        ("/assistant [NAME]", say("list the assistants, or choose the one that answers")),
        ("/system [TEXT]", say("show, give or (with -) drop the instructions for the model")),
        (
            "/set [NAME [VALUE]]",
            say("set a field of the request (temperature 0.2), or unset it"),
        ),
        ("/continue", say("go on with an answer that was stopped or cut")),
        ("/again", say("have the last question answered once more")),
        ("/stats", say("show figures after each answer, or no longer")),
        ("/reset", say("begin a new conversation")),
        ("/save FILE", say("write the conversation to a file (.json or Markdown)")),
        ("/exit", say("leave")),
        ("Ctrl-C", say("stop the answer; what has come of it stays")),
        ("Ctrl-D", say("leave")),
        ("Alt-Enter", say("a new line in the message")),
    ]
    return "\n".join(f"{name:20} {text}" for name, text in lines)


def _exit(rest: str, conversation: Conversation, client: Client) -> str:
    raise Leave


COMMANDS: dict[str, Callable[[str, Conversation, Client], str | Asking]] = {
    "/model": _model,
    "/assistant": _assistant,
    "/system": _system,
    "/set": _set,
    "/continue": _continue,
    "/again": _again,
    "/stats": _stats,
    "/reset": _reset,
    "/save": _save,
    "/help": _help,
    "/exit": _exit,
}
