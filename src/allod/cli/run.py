"""`allod run`: one question, one answer, fit for pipes."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Model, Settings, Stats, System, Url, parse_settings
from allod.cli.words import say


def run(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", show_default=False, hidden=True),
    ] = None,
    model: Model = "default",
    system: System = None,
    settings: Settings = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, metavar="N", help=say("End the answer after N tokens.")),
    ] = None,
    stats: Stats = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Print the answer to a prompt, and nothing else, on stdout. What is piped in comes after the prompt."""
    from allod.cli.answer import Answer, listen
    from allod.cli.answer import stats as stats_line
    from allod.cli.output import note, show_json
    from allod.cli.plain_answer import PlainScreen
    from allod.cli.server import connect

    messages = [{"role": "user", "content": _prompt(prompt or [])}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {"model": model, "messages": messages, **parse_settings(settings)}
    if max_tokens:
        body["max_tokens"] = max_tokens

    answer = Answer()
    screen = None if json else PlainScreen()
    with (
        connect(url, preload=True) as client,
        contextlib.closing(listen(client, body, answer)) as pieces,
        screen or contextlib.nullcontext(),
    ):
        for piece in pieces:
            if screen:
                screen.show(piece)
    if json:
        show_json(answer.facts())
    else:
        for call in answer.tool_calls:  # an answer that consists of calls is printed as JSON, one a line
            show_json(call, one_line=True)
    if stats:
        note(stats_line(answer))


def _prompt(words: list[str]) -> str:
    """The argument, then what stdin holds, if it is no terminal."""
    parts = [" ".join(words).encode("utf-8", "surrogateescape").decode("utf-8", "replace")]
    if sys.stdin is not None and not sys.stdin.isatty():
        parts.append(sys.stdin.buffer.read().decode("utf-8", "replace"))
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise Failure(
            say("There is no prompt."),
            fix=say('Write `allod run "…"` or pipe text into it.'),
            exit_code=Exit.USAGE,
        )
    return text
