"""The branch of a thread that is shown, as one HTML file to be read and printed. It asks nothing of anybody.

No script, no link, no outside asset: the browser itself is told to load nothing but the images inside. Text is shown
as it was typed, and never read as HTML or Markdown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

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

_STYLE = """
:root { --paper: #fdfdfc; --ink: #1d1d1b; --faint: #66645f; --line: #dedbd5; --user: #f1efea; }
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191918; --ink: #e9e7e2; --faint: #a3a099; --line: #3a3936; --user: #262523; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 46rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.65 system-ui, "Segoe UI", Roboto, "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
    "Noto Sans CJK SC", "Noto Sans SC", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.3; margin: 0 0 .25rem; overflow-wrap: anywhere; }
header, .about { color: var(--faint); font-size: .875rem; }
h1, .about b { color: var(--ink); }
article { margin-top: 1.5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
article.user { background: var(--user); border: 0; border-radius: .75rem; padding: .75rem 1rem; }
.text, pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
pre { font: .875rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; border: 1px solid var(--line);
  border-radius: .5rem; padding: .6rem .8rem; }
img { max-width: 100%; height: auto; border-radius: .5rem; }
figure { margin: .75rem 0; }
figcaption, summary, .sources, .end { color: var(--faint); font-size: .875rem; overflow-wrap: anywhere; }
details .text { color: var(--faint); }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444; --line: #bbb; --user: #fff; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  article { break-inside: auto; } .about, figure { break-after: avoid; break-inside: avoid; }
  article.user { border: 1px solid var(--line); }
}
"""
_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)


def as_html(thread: ExportedThread) -> str:
    """The whole file, images of the thread's attachments inside."""
    title = escape(thread.title) or "Untitled"
    messages = "\n".join(_message(message, thread) for message in thread.active_path())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1 lang="" dir="auto">{title}</h1>{moment(thread.created_at)}</header>
<main>
{messages}
</main>
</body>
</html>
"""


def _message(message: ExportedMessage, thread: ExportedThread) -> str:
    citations = [part for part in message.parts if isinstance(part, Citation)]
    spoken = joined(part for part in message.parts if not isinstance(part, Citation))
    said = "\n".join(_part(part, thread) for part in spoken)
    model = f" · {escape(message.model)}" if message.model else ""
    about = f"<b>{SPEAKERS[message.role]}</b>{model} · {moment(message.created_at)}"
    return (
        f'<article class="{message.role}">\n<div class="about">{about}</div>\n{said}\n'
        f"{_sources(citations)}{_end(message)}</article>"
    )


def _part(part: Part, thread: ExportedThread) -> str:
    if isinstance(part, Text):
        return _text(part.text)
    if isinstance(part, Reasoning):
        return f"<details><summary>Reasoning</summary>{_text(part.text)}</details>"
    if isinstance(part, ToolCall):
        return _code(f"Tool {part.name}", part.arguments)
    if isinstance(part, ToolResult):
        return _code(f"Tool {part.name} {'failed' if part.is_error else 'answered'}", part.text)
    if isinstance(part, Image) and part.blob in thread.attachments:
        return _image(part, thread.attachments[part.blob])
    assert isinstance(part, Image | File)
    return f"<figure><figcaption>{part.type.capitalize()}: {escape(part.name)}</figcaption></figure>"


def _text(text: str) -> str:
    return f'<div class="text" lang="" dir="auto">{escape(text)}</div>'


def _code(title: str, text: str) -> str:
    # a line feed right behind <pre> would be swallowed, so there is one that may be
    return f"<figure><figcaption>{escape(title)}</figcaption><pre>\n{escape(text)}</pre></figure>"


def _image(image: Image, content: bytes) -> str:
    kind = image.media_type if image.media_type.startswith("image/") else "application/octet-stream"
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    name = escape(image.name)
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def _sources(citations: Sequence[Citation]) -> str:
    if not citations:
        return ""
    items = []
    for each in citations:
        quote = f"“{each.quote}”" if each.quote else ""
        said = " · ".join(filter(None, (each.title, each.source, quote, each.url)))
        items.append(f"<li>{escape(said)}</li>")
    return f'<ol class="sources">{"".join(items)}</ol>\n'


def _end(message: ExportedMessage) -> str:
    if message.status not in ENDS:
        return ""
    detail = (message.error or {}).get("detail", "")
    return f'<div class="end">{escape(f"{ENDS[message.status]} {detail}".rstrip())}</div>\n'
