"""The branch of a thread that is shown, as Markdown to be read or kept. What was said stands as it was typed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from allod.extensions.conversational.exported import ENDS, SPEAKERS, ExportedMessage, ExportedThread, moment
from allod.extensions.conversational.parts import (
    Citation,
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    joined,
)

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~])")


def as_markdown(thread: ExportedThread) -> str:
    """The whole document. Citations become footnotes at its end; images and files are told by name."""
    footnotes: list[str] = []
    blocks = [f"# {_plain(thread.title) or 'Untitled'}", f"*{moment(thread.created_at)}*"]
    for message in thread.active_path():
        blocks += _message(message, footnotes)
    notes = "\n".join(footnotes)
    return "\n\n".join([*blocks, notes] if notes else blocks) + "\n"


def _message(message: ExportedMessage, footnotes: list[str]) -> list[str]:
    model = f" ({_plain(message.model)})" if message.model else ""
    blocks = [f"## {SPEAKERS[message.role]}{model}", f"*{moment(message.created_at)}*"]
    blocks += [_part(part) for part in joined(_with_marks(message.parts, footnotes))]
    if end := ENDS.get(message.status):
        detail = (message.error or {}).get("detail", "")
        blocks.append(f"*{end}* {_plain(detail)}".rstrip())
    return blocks


def _part(part: Part) -> str:
    if isinstance(part, Text):
        return _with_closed_fence(part.text)
    if isinstance(part, Reasoning):
        inside = _with_closed_fence(part.text.replace("</details", "&lt;/details"))
        return f"<details>\n<summary>Reasoning</summary>\n\n{inside}\n\n</details>"
    if isinstance(part, ToolCall):
        return f"Tool {_plain(part.name)}:\n\n{_code_block(part.arguments, 'json')}"
    if isinstance(part, ToolResult):
        said = "failed" if part.is_error else "answered"
        return f"Tool {_plain(part.name)} {said}:\n\n{_code_block(part.text)}"
    assert isinstance(part, Image | File)
    return f"[{part.type.capitalize()}: {_plain(part.name)}]"


# citations


def _with_marks(parts: Sequence[Part], footnotes: list[str]) -> list[Part]:
    """The parts without citations: these are marked in the text before them, and explained in `footnotes`."""
    kept: list[Part] = []
    marks: dict[int, list[tuple[int, str]]] = {}  # by the text's place in `kept`
    last_text: int | None = None
    for part in parts:
        if isinstance(part, Citation):
            mark = f"[^{len(footnotes) + 1}]"
            footnotes.append(f"{mark}: {_note(part)}")
            if last_text is None:
                kept.append(Text(text=mark))
            else:
                marks.setdefault(last_text, []).append((part.end, mark))
            continue
        if isinstance(part, Text):
            last_text = len(kept)
        kept.append(part)
    return [
        Text(text=_marked(part.text, marks.get(place, []))) if isinstance(part, Text) else part
        for place, part in enumerate(kept)
    ]


def _marked(text: str, marks: Sequence[tuple[int, str]]) -> str:
    for end, mark in sorted(marks, key=lambda each: each[0])[
        ::-1
    ]:  # from the back, so that places stay right
        text = text[:end] + mark + text[end:]
    return text


def _note(citation: Citation) -> str:
    said = [_plain(citation.title) or _plain(citation.source)]
    if citation.title and citation.source:
        said.append(_plain(citation.source))
    if citation.quote:
        said.append(f"“{_plain(citation.quote)}”")
    if citation.url:
        said.append(_plain(citation.url))
    return ", ".join(said)


# words that stand among the document's own


def _plain(text: str) -> str:
    """Text on one line in which nothing is Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code_block(text: str, language: str = "") -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _with_closed_fence(text: str) -> str:
    """The text; where it ends within a block of code, as an answer that was cut may, with the block's end."""
    fence = ""
    for found in _FENCE.finditer(text):
        mark, rest = found.groups()
        if not fence:
            fence = mark
        elif mark.startswith(fence) and not rest.strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text
