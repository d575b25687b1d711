"""`allod threads search`: words in titles and messages, with the passage in which they stand."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, Literal

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url
from allod.cli.words import say

_DAY_S = 86400


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORD", show_default=False, hidden=True)],
    best: Annotated[
        bool, typer.Option("--best", help=say("The best match first, instead of the newest."))
    ] = False,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help=say("Of this project only."))
    ] = None,
    assistant: Annotated[
        str | None, typer.Option("--assistant", metavar="NAME", help=say("With this assistant only."))
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help=say("Answers of this model only."))
    ] = None,
    role: Annotated[
        Literal["user", "assistant"] | None,
        typer.Option("--role", metavar="WHO", help=say("What this side said: user or assistant.")),
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", metavar="ID", help=say("In this conversation only."))
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DAY", help=say("From this day on: YYYY-MM-DD."))
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DAY", help=say("Up to this day, it included."))
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100, metavar="N", help=say("At most so many."))
    ] = 20,
    json: Json = False,
    url: Url = None,
) -> None:
    """Find words in all conversations: WORD…"""
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    asked: dict[str, Any] = {
        "query": " ".join(_shell_phrase(word) for word in words),
        "order": "best" if best else "newest",
        "limit": limit,
        "model": model,
        "role": role,
        "thread": thread,
        "after": _day(since) if since else None,
        "before": _day(until) + _DAY_S if until else None,
    }
    with connect(url) as client:
        if project:
            from allod.cli.threads import project_id

            asked["project"] = project_id(client, project)
        if assistant:
            asked["assistant"] = _assistant_id(client, assistant)
        found = client.request("POST", "/api/conversational/search", asked)
    if json:
        show_json(found)
    elif not found["hits"]:
        note(say("Nothing was found."))
    for hit in () if json else found["hits"]:
        _show(hit)


def _shell_phrase(word: str) -> str:
    """What the shell hands over as one word, because it was quoted there, is meant to stay together."""
    return f'"{word}"' if len(word.split()) > 1 and '"' not in word else word


def _day(day: str) -> float:
    """When a day of this place begins, in seconds since 1970. Raises Failure."""
    try:
        return time.mktime(time.strptime(day, "%Y-%m-%d"))
    except (ValueError, OverflowError) as error:
        raise Failure(
            say("{day} is not a day.", day=repr(day)),
            fix=say("Write it as YYYY-MM-DD."),
            exit_code=Exit.USAGE,
        ) from error


def _assistant_id(client: Any, name: str) -> str:
    from urllib.parse import quote

    return str(client.request("GET", f"/api/assistant/assistants/{quote(name, safe='')}")["id"])


def _show(hit: dict[str, Any]) -> None:
    from rich.text import Text

    from allod.cli.output import console, moment, printable

    who = {"user": say("You"), "assistant": say("Answer")}.get(hit["role"] or "", say("Title"))
    facts = [hit["thread"], hit["title"], who, moment(hit["at"])]
    head = printable(" · ".join(fact for fact in facts if fact))
    passage = [(printable(piece["text"]), piece["is_hit"]) for piece in hit["snippet"]]
    if not sys.stdout.isatty():
        print(f"{head}\n  {''.join(text for text, _ in passage)}", flush=True)
        return
    console().print(Text(head, style="cyan"))
    console().print(
        Text("  ").append_text(Text.assemble(*((text, "bold" if is_hit else "") for text, is_hit in passage)))
    )
