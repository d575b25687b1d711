"""The options of `allod assistants create` and `edit`, and the fields of a body that they stand for."""

from __future__ import annotations

import sys
from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.words import say

Instructions: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--instructions",
        "-i",
        metavar="TEXT",
        help=say(
            "What the model reads first; - reads it from stdin. {user_name}, {date} and {time} are filled in."
        ),
    ),
]
Description: TypeAlias = Annotated[
    str | None, typer.Option("--description", "-d", metavar="TEXT", help=say("What it is for."))
]
Avatar: TypeAlias = Annotated[
    str | None, typer.Option("--avatar", metavar="TEXT", help=say("An emoji, or a few letters."))
]
Model: TypeAlias = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help=say("The model that answers."))
]
Preset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", help=say("precise, balanced or creative: see `allod assistants presets`.")
    ),
]
Tools: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tool", metavar="NAME", help=say('A tool that it may use; may be repeated. "": none.')),
]
Knowledge: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--knowledge", metavar="ID", help=say('Knowledge that it may look up; may be repeated. "": none.')
    ),
]
Starters: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--starter", metavar="TEXT", help=say('A text to begin a chat with; may be repeated. "": none.')
    ),
]
MemoryOnly: TypeAlias = Annotated[
    bool | None,
    typer.Option("--memory-only/--no-memory-only", show_default=False, help=say("Its chats leave no trace.")),
]


def fields_of(
    instructions: str | None,
    description: str | None,
    avatar: str | None,
    model: str | None,
    preset: str | None,
    tools: list[str] | None,
    knowledge: list[str] | None,
    starters: list[str] | None,
    memory_only: bool | None,
) -> dict[str, Any]:
    """What was named, as fields of a body."""
    lists = {"tools": tools, "knowledge": knowledge, "starters": starters}
    said: dict[str, Any] = {
        "instructions": sys.stdin.read() if instructions == "-" else instructions,
        "description": description,
        "avatar": avatar,
        "model": model,
        "preset": preset,
        "memory_only": memory_only,
        **{name: [each for each in values if each] for name, values in lists.items() if values},
    }
    return {name: value for name, value in said.items() if value is not None}
