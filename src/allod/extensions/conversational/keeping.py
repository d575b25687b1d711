"""Conversations that programs send as a whole and want kept (`store: true`): each becomes a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from allod.extensions.conversational.answer import ENDS, AnswerParts, counted
from allod.extensions.conversational.parts import Part, Text, ToolCall, ToolResult
from allod.extensions.conversational.records import Message, Role, Status, Thread, new_id
from allod.extensions.conversational.rows import Archive, Rows
from allod.extensions.conversational.tree import change, grow
from allod.sdk.chat import ChatRequest, text_of
from allod.sdk.chat import Message as ChatMessage
from allod.sdk.errors import AllodError, BadRequest
from allod.sdk.stream import ChatEvent, ChoiceFinished, Usage


class Keeping:
    """Implements the service Threads."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def keep(self, request: ChatRequest) -> Kept:
        """Keep a conversation, and a place for its answer. Raises BadRequest where it is none that can be kept."""
        if request.choices > 1:
            raise BadRequest("An answer that is kept is one.", fix="Leave n out, or store.", param="store")
        now = time.time()
        thread = Thread(
            new_id("thread"), now, now, instructions=_instructions(request.messages), model=request.model
        )
        said = _said(request.messages)
        continues = said and said[-1][0] == "assistant"

        def work(rows: Rows) -> Message:
            rows.add_thread(thread)
            grown, last = thread, None
            for role, parts in said:
                grown, last = grow(rows, grown, grown.active, role, parts)
            if continues and last is not None:
                return change(rows, last, status="writing")
            return grow(rows, grown, grown.active, "assistant", (), status="writing")[1]

        return Kept(self._archive, await self._archive.write(work), request)


class Kept:
    """Implements KeptAnswer."""

    def __init__(self, archive: Archive, message: Message, request: ChatRequest) -> None:
        self._archive = archive
        self._message = message
        self._request = request
        self._parts = AnswerParts(message.parts)
        self._status: Status = "stopped"
        self._usage = Usage()

    @property
    def thread(self) -> str:
        """The thread's id."""
        return self._message.thread

    def hear(self, event: ChatEvent) -> None:
        """A piece of the answer has come."""
        self._parts.add(event)
        if isinstance(event, ChoiceFinished):
            self._status = ENDS[event.reason]
        elif isinstance(event, Usage):
            self._usage = event

    async def end(self, model: str, error: AllodError | None = None) -> None:
        """It has ended."""
        ended: dict[str, Any] = {
            "parts": self._parts.parts,
            "status": self._status if error is None else "error",
            "model": model,
            "seed": self._request.seed,
            "usage": counted(self._usage, {}),
            "timings": dict(self._usage.timings),
        }
        if error is not None:
            ended["error"] = {"code": error.code, "detail": error.detail, "fix": error.fix}
        await self._archive.write(lambda rows: change(rows, rows.message(self._message.id), **ended))


def _instructions(messages: Sequence[ChatMessage]) -> str:
    return "\n\n".join(text_of(each) for each in messages if each["role"] in ("system", "developer"))


def _said(messages: Sequence[ChatMessage]) -> list[tuple[Role, tuple[Part, ...]]]:
    """The messages as a thread has them: what tools said belongs to the answer that had asked them."""
    found: list[tuple[Role, tuple[Part, ...]]] = []
    for message in messages:
        parts = _parts(message)
        role: Role = "user" if message["role"] == "user" else "assistant"
        if message["role"] in ("system", "developer") or not parts:
            continue
        if found and found[-1][0] == role:
            found[-1] = role, (*found[-1][1], *parts)
        else:
            found.append((role, parts))
    return found


def _parts(message: ChatMessage) -> tuple[Part, ...]:
    text = text_of(message)
    if message["role"] in ("tool", "function"):
        name = str(message.get("name") or "")
        return (ToolResult(id=str(message.get("tool_call_id") or name), name=name, text=text),)
    parts: list[Part] = [Text(text=text)] if text else []
    content = message.get("content")
    if isinstance(content, list):
        others = [part["type"] for part in content if isinstance(part, dict) and part.get("type") != "text"]
        parts += [Text(text=f"[{kind}]") for kind in others]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        parts.append(ToolCall(id=call["id"], name=function["name"], arguments=function["arguments"]))
    return tuple(parts)
