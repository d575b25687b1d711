"""`allod run`: one question, one answer, fit for pipes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Model, Settings, Stats, System, Url, parse_settings
from allod.cli.words import say

if TYPE_CHECKING:
    from allod.cli.answer import Answer, Piece
    from allod.cli.client import Client


def run(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", show_default=False, hidden=True),
    ] = None,
    model: Model = "",
    system: System = None,
    settings: Settings = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, metavar="N", help=say("End the answer after N tokens.")),
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", metavar="ID", help=say("Ask it in this conversation."))
    ] = None,
    stats: Stats = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Print the answer to a prompt, and nothing else, on stdout. What is piped in comes after the prompt."""
    from allod.cli.answer import Answer
    from allod.cli.answer import stats as stats_line
    from allod.cli.output import note, show_json
    from allod.cli.plain_answer import PlainScreen
    from allod.cli.server import connect

    fields = parse_settings(settings)
    if max_tokens:
        fields["max_tokens"] = max_tokens
    text = _prompt(prompt or [])
    if thread and system:
        raise Failure(
            say("Instructions are for a whole conversation, not for one question of it."),
            fix=say("`allod chat --thread ID --system TEXT` gives it other ones."),
            exit_code=Exit.USAGE,
        )

    answer = Answer()
    screen = None if json else PlainScreen()
    with connect(url, preload=True) as client:
        asked = (
            _in_thread(client, thread, text, model, fields, answer)
            if thread
            else _alone(client, text, model, system, fields, answer)
        )
        with contextlib.closing(asked) as pieces, screen or contextlib.nullcontext():
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


def _alone(
    client: Client, text: str, model: str, system: str | None, fields: dict[str, Any], answer: Answer
) -> Generator[Piece]:
    """Ask by /v1, which keeps nothing."""
    from allod.cli.answer import listen

    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return listen(client, {"model": model or "default", "messages": messages, **fields}, answer)


def _in_thread(
    client: Client, thread: str, text: str, model: str, fields: dict[str, Any], answer: Answer
) -> Generator[Piece]:
    """Ask behind what was said last in a thread; model and fields are for this question only."""
    from allod.cli.thread_run import ThreadRun

    run = ThreadRun(client, answer)
    run.begin(thread, {"input": text, "model": model, "parameters": fields})
    return run.pieces()


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
