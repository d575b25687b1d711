"""The commands of a chat session: lines that begin with a slash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from allod.cli.answer import stats
from allod.cli.conversation import Conversation
from allod.cli.failures import Failure
from allod.cli.options import parse_setting
from allod.cli.words import say

if TYPE_CHECKING:
    from allod.cli.client import Client


class Leave(Exception):
    """The person wants to leave the chat."""


def is_command(line: str) -> bool:
    """Whether a line is a command and no message; a message that begins with a slash is written after a space."""
    return line.startswith("/")


def obey(line: str, conversation: Conversation, client: Client) -> str:
    """Do what a command says and return what to tell the person. Raises Failure, or Leave."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise Failure(
            say("There is no command {name}.", name=name),
            fix=say("/help lists them. To send a message that begins with a slash, put a space before it."),
        )
    return command(rest.strip(), conversation, client)


def _model(rest: str, conversation: Conversation, client: Client) -> str:
    known = model_names(client)
    if rest:
        conversation.model = _chosen(rest, known)
        return say("{model} answers from now on.", model=conversation.model)
    return "\n".join(f"{'*' if name == conversation.model else ' '} {name}" for name in known)


def model_names(client: Client) -> list[str]:
    """The names of all models that the server knows. Raises Failure."""
    return [model["id"] for model in client.request("GET", "/v1/models")["data"]]


def _chosen(wanted: str, known: list[str]) -> str:
    """The model with this name, or the only one whose name begins so."""
    if wanted in known:
        return wanted
    beginning_so = [name for name in known if name.lower().startswith(wanted.lower())]
    if len(beginning_so) == 1:
        return beginning_so[0]
    raise Failure(
        say("There is no model {name}.", name=repr(wanted)),
        fix=say("Known are: {names}", names=", ".join(known)),
    )


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
    conversation.reset()
    return say("The conversation begins anew.")


def _save(rest: str, conversation: Conversation, client: Client) -> str:
    if not rest:
        raise Failure(
            say("/save needs the name of a file."),
            fix=say("Its ending .json gives JSON, any other Markdown."),
        )
    conversation.save(Path(rest))
    return say("Saved to {path}.", path=rest)


def _help(rest: str, conversation: Conversation, client: Client) -> str:
    lines = [
        ("/model [NAME]", say("list the models, or choose the one that answers")),
        ("/system [TEXT]", say("show, give or (with -) drop the instructions for the model")),
        (
            "/set [NAME [VALUE]]",
            say("set a field of the request (temperature 0.2), or unset it"),
        ),
        ("/stats", say("show figures after each answer, or no longer")),
        ("/reset", say("forget the conversation and begin anew")),
        ("/save FILE", say("write the conversation to a file (.json or Markdown)")),
        ("/exit", say("leave")),
        ("Ctrl-C", say("stop the answer; what has come of it stays")),
        ("Ctrl-D", say("leave")),
        ("Alt-Enter", say("a new line in the message")),
    ]
    return "\n".join(f"{name:20} {text}" for name, text in lines)


def _exit(rest: str, conversation: Conversation, client: Client) -> str:
    raise Leave


COMMANDS: dict[str, Callable[[str, Conversation, Client], str]] = {
    "/model": _model,
    "/system": _system,
    "/set": _set,
    "/stats": _stats,
    "/reset": _reset,
    "/save": _save,
    "/help": _help,
    "/exit": _exit,
}
