"""The rolling summary of what a thread's prompt leaves out, written by the thread's model while nobody waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from allod.extensions.conversational.events import ThreadChanged
from allod.extensions.conversational.parts import text_of
from allod.extensions.conversational.recall import BYTES_PER_TOKEN
from allod.extensions.conversational.records import Message, Thread
from allod.extensions.conversational.rows import Archive, Rows
from allod.sdk.chat import ChatRequest
from allod.sdk.context import Context
from allod.sdk.stream import TextDelta

_TOKENS = 300
_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_ASK = (
    "Summarize this conversation in at most 150 words, in its language. Keep names, numbers, wishes and decisions."
    " Answer with the summary only.\n\n{before}{said}"
)
_BEFORE = "What was said earlier: {summary}\n\n"


async def summarize(context: Context[Any], archive: Archive, id: str) -> None:
    """Bring a thread's summary up to where its prompt begins. Raises NotFound, and what asking the model raises.

    What the user has written meanwhile stays.
    """
    thread, messages = await archive.read(lambda rows: _left_out(rows, id))
    if not messages:
        return
    card = await context.models.find(messages[-1].model or thread.model or "default")
    summary = thread.summary
    for said in _pieces(messages, card.context_tokens // 2 * BYTES_PER_TOKEN):
        before = _BEFORE.format(summary=summary) if summary else ""
        summary = await _asked(context, card.id, _ASK.format(before=before, said=said))
        if not summary:
            return

    def keep(rows: Rows) -> None:
        now = rows.thread(id)
        if (now.summary, now.summary_upto) == (thread.summary, thread.summary_upto):
            rows.put_thread(replace(now, summary=summary, summary_upto=messages[-1].id))
            rows.tell(ThreadChanged(id, "changed"))

    await archive.write(keep)


def _left_out(rows: Rows, id: str) -> tuple[Thread, list[Message]]:
    """What lies between the summary and the beginning of the prompt."""
    thread = rows.thread(id)
    if thread.active is None or thread.kept_from is None:
        return thread, []
    path = rows.path(thread.active)
    ids = [message.id for message in path]
    if thread.kept_from not in ids:
        return thread, []
    begins = ids.index(thread.summary_upto) + 1 if thread.summary_upto in ids else 0
    return thread, path[begins : ids.index(thread.kept_from)]


def _pieces(messages: Sequence[Message], most_bytes: int) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for message in messages:
        line = f"{_SPEAKERS[message.role]}: {text_of(message.parts)}"
        line = line.encode()[:most_bytes].decode(errors="ignore")
        if piece and size + len(line.encode()) > most_bytes:
            yield "\n".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line.encode())
    yield "\n".join(piece)


async def _asked(context: Context[Any], model: str, text: str) -> str:
    request = ChatRequest(
        model=model,
        messages=[{"role": "user", "content": text}],
        parameters={"temperature": 0.2},
        max_tokens=_TOKENS,
    )
    stream = await context.chat.open(request)
    async with aclosing(stream.events()) as events:
        said = "".join([event.text async for event in events if isinstance(event, TextDelta)])
    return said.strip()
