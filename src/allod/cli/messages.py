"""The messages of a thread as people read them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from allod.cli.words import say


def text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    """What was said: texts, those that follow each other as one, and images, files and tools by name."""
    said = ""
    was_text = False
    for part in parts:
        if (words := _words(part)) is None:
            continue
        is_text = part["type"] == "text"
        if said and not (is_text and was_text):
            said += "\n\n"
        said += words
        was_text = is_text
    return said


def _words(part: Mapping[str, Any]) -> str | None:
    match part["type"]:
        case "text":
            return str(part["text"])
        case "image" | "file" | "tool_call":
            return f"[{part['type'].replace('_', ' ')}: {part['name']}]"
        case _:  # reasoning, results of tools, citations
            return None


def heading(message: Mapping[str, Any]) -> str:
    """Who speaks, when, and what else there is to know of a message."""
    from allod.cli.output import moment

    who = say("You") if message["role"] == "user" else message["model"] or say("Answer")
    facts = [who, moment(message["created_at"]), _end(message)]
    siblings = message.get("siblings") or []
    if len(siblings) > 1:
        place = siblings.index(message["id"]) + 1
        facts.append(say("version {place} of {count}", place=place, count=len(siblings)))
    if message["is_pinned"]:
        facts.append(say("pinned"))
    return " · ".join(fact for fact in facts if fact)


def _end(message: Mapping[str, Any]) -> str:
    ends = {
        "writing": say("is being written"),
        "stopped": say("stopped"),
        "length": say("cut at its longest length"),
        "interrupted": say("interrupted"),
        "error": (message["error"] or {}).get("detail") or say("error"),
    }
    return ends.get(message["status"], "")


def show_message(message: Mapping[str, Any]) -> None:
    """Print a message with its heading: at a terminal an answer as rendered Markdown, in a pipe as it stands."""
    text = text_of(message["parts"])
    if sys.stdout.isatty():
        _show_rendered(heading(message), text, is_answer=message["role"] == "assistant")
    else:
        print(f"## {heading(message)}\n\n{text}\n", flush=True)


def _show_rendered(title: str, text: str, *, is_answer: bool) -> None:
    from rich.text import Text

    from allod.cli.answer import Piece
    from allod.cli.live_answer import LiveScreen
    from allod.cli.output import console, printable, tell

    console().print(Text(printable(title), style="bold cyan" if not is_answer else "bold"))
    if is_answer:
        with LiveScreen() as screen:
            screen.show(Piece("text", text))
    else:
        tell(text)
    tell()
