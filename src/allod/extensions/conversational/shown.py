"""Threads, messages and what belongs to them as JSON, for the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from allod.extensions.conversational.parts import PARTS
from allod.extensions.conversational.records import Message, Queued, Thread

if TYPE_CHECKING:
    from allod.extensions.conversational.desk import Page

_OWN_AFFAIRS = ("kept_from",)


def thread_as_json(thread: Thread) -> dict[str, Any]:
    """A thread without its messages."""
    return {name: value for name, value in asdict(thread).items() if name not in _OWN_AFFAIRS}


def message_as_json(message: Message, siblings: Sequence[str] | None = None) -> dict[str, Any]:
    """A message; with `siblings`, the ids among which one chooses at this place."""
    shown = {name: getattr(message, name) for name in message.__slots__ if name != "parts"}
    shown["parts"] = PARTS.dump_python(message.parts, mode="json", exclude_none=True)
    if siblings is not None:
        shown["siblings"] = list(siblings)
    return shown


def queued_as_json(queued: Queued) -> dict[str, Any]:
    """A message that waits."""
    return {
        "id": queued.id,
        "thread": queued.thread,
        "created_at": queued.created_at,
        "parts": PARTS.dump_python(queued.parts, mode="json", exclude_none=True),
        "options": dict(queued.options),
    }


def page_as_json(page: Page) -> dict[str, Any]:
    """A page of messages."""
    return {
        "messages": [message_as_json(each, page.siblings[each.id]) for each in page.messages],
        "has_more": page.has_more,
    }
