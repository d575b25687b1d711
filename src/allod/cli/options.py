"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.words import say

Json: TypeAlias = Annotated[bool, typer.Option("--json", help=say("Print JSON."))]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="ALLOD_URL",
        show_envvar=False,
        metavar="URL",
        help=say("Speak to this server (or ALLOD_URL)."),
    ),
]
Limit: TypeAlias = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help=say("At most so many."))
]
Of: TypeAlias = Annotated[
    str | None, typer.Option("--extension", "-x", metavar="NAME", help=say("Of this extension only."))
]
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help=say("The model that answers."))
]
System: TypeAlias = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help=say("Instructions for the whole conversation.")),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=say("A field of the request, such as temperature=0.2; may be repeated."),
    ),
]
Stats: TypeAlias = Annotated[
    bool, typer.Option("--stats", help=say("Say tokens per second and time to first token."))
]

_OURS = {"model", "messages", "stream", "stream_options", "return_progress", "n"}


def hand_on(context: typer.Context, **options: object) -> None:
    """Let options that stand before a subcommand hold for it too: `allod models --json list`."""
    if context.invoked_subcommand is not None:
        context.default_map = {context.invoked_subcommand: options}


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """`NAME=VALUE` pairs as fields of a request to a model. Raises Failure."""
    fields = parse_pairs(settings or [])
    for name in fields:
        _check_ours(name)
    return fields


def parse_setting(name: str, value: str) -> Any:
    """The value of one field of a request to a model. Raises Failure."""
    _check_ours(name)
    return parse_value(value)


def _check_ours(name: str) -> None:
    if not name or name in _OURS:
        raise Failure(say("The field {name} cannot be set here.", name=repr(name)), exit_code=Exit.USAGE)


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs. Raises Failure."""
    fields = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair:
            raise Failure(say("{pair} is not of the form NAME=VALUE.", pair=repr(pair)), exit_code=Exit.USAGE)
        fields[name.strip()] = parse_value(value)
    return fields


def parse_value(text: str) -> Any:
    """What was typed: JSON where it reads as such, else the text itself."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def _not_json(constant: str) -> Any:
    """NaN and the infinities, which Python would read, and no server."""
    raise ValueError(constant)
