"""One run while it lives: it asks the model, tells its readers, and keeps what has come at least twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from allod.extensions.conversational.answer import ENDS, AnswerParts, counted
from allod.extensions.conversational.compose import Composer, Draft
from allod.extensions.conversational.events import ChatRunChanged
from allod.extensions.conversational.prefill import continued
from allod.extensions.conversational.private import Private
from allod.extensions.conversational.records import Message, Status
from allod.extensions.conversational.rows import Archive, Rows
from allod.extensions.conversational.run_log import RunLog
from allod.extensions.conversational.shown import message_as_json
from allod.extensions.conversational.tree import change
from allod.sdk.chat import ChatRequest, GenerateRequest, Purpose
from allod.sdk.context import Context
from allod.sdk.engine import ModelId
from allod.sdk.errors import AllodError, Conflict, ModelTooLarge, NotFound
from allod.sdk.events import ModelLoadProgressed
from allod.sdk.services import Assistant
from allod.sdk.stream import (
    ChatEvent,
    ChatStream,
    ChoiceFinished,
    OpenedChat,
    Progress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_KEEP_EVERY_S = 0.25
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do: write `message`, or go on with it."""

    run: str
    draft: Draft
    continues: bool
    model: str
    parameters: Mapping[str, Any]
    assistant: Assistant


class Live:
    """A run in this server. `log` is what its readers read."""

    def __init__(
        self,
        context: Context[Any],
        archive: Archive,
        composer: Composer,
        private: Private,
        order: Order,
    ) -> None:
        self.order = order
        self.log = RunLog()
        self.message: Message = order.draft.answer
        self.state = "queued"
        self._context = context
        self._archive = archive
        self._composer = composer
        self._private = private
        self._parts = AnswerParts(self.message.parts)
        self._began = time.monotonic()
        self._first_token_s: float | None = None
        self._usage = Usage()
        self._is_dirty = False
        self._ended_as: Status = "interrupted"
        self._is_stopped = False
        self.has_ended = asyncio.Event()
        """Set once the message is kept for good, or cannot be."""
        self._say("queued", place=0)
        # from here on: it may be stopped before `run` has its first turn
        self._answering = asyncio.create_task(self._answer(), name=f"answer {order.run}")

    async def run(self) -> None:
        """All of it, until the message is kept for good. What goes wrong is kept with the message."""
        keeping = asyncio.create_task(self._keep_now_and_then(), name=f"keep {self.order.run}")
        watching = asyncio.create_task(self._watch_model(), name=f"watch {self.order.run}")
        try:
            try:
                await asyncio.wait([self._answering])
            finally:
                watching.cancel()
                keeping.cancel()
                self._answering.cancel()
                await asyncio.wait([self._answering, keeping, watching])
            await self._end()
        finally:  # whatever happens, nobody waits for ever
            self.log.close()
            self.has_ended.set()

    def stop(self, status: Status = "stopped") -> None:
        """Let it end where it is."""
        if not self._answering.done() and self._ended_as == "interrupted":  # else it has just ended by itself
            self._is_stopped = True
            self._ended_as = status
            self._answering.cancel()

    # the answer

    async def _answer(self) -> None:
        try:
            await self._ask()
        except AllodError as error:
            self._fail(error.code, error.detail, error.fix)
        except Exception:
            self._context.log.exception("a run failed")
            self._fail("internal_error", "Something went wrong in the server.", "See its log.")

    def _fail(self, code: str, detail: str, fix: str) -> None:
        if self._is_stopped:
            return  # what breaks while it lets go is no news
        self._ended_as = "error"
        self.message = replace(self.message, error={"code": code, "detail": detail, "fix": fix})

    async def _ask(self) -> None:
        order, draft = self.order, self.order.draft
        request = _request(order)
        with self._composer.composing(request, draft):
            stream = await self._open(request, draft.purpose)
        if not draft.seen:
            raise Conflict("The extension `conversational` is stopping.", fix="Ask again once it runs.")
        self._note_model(stream.model.id, request)
        draft.seen["worker"] = "own" if draft.purpose == "private" else "shared"
        self.log.add("context", draft.seen)
        try:
            await self._hear(stream, request, draft.purpose)
        except ModelTooLarge:
            if draft.purpose == "chat":
                raise
            # no room for a worker of its own: the shared one is told, and ends with the thread
            draft.seen["worker"] = "shared"
            self.log.add("context", draft.seen)
            again = replace(request, parameters=dict(_request(order).parameters))
            await self._hear(await self._open(again, "chat"), again, "chat")

    async def _open(self, request: GenerateRequest, purpose: Purpose) -> OpenedChat:
        tools = self.order.assistant.tools if isinstance(request, ChatRequest) else ()
        stream = await self._context.chat.open(request, tools=tools, purpose=purpose)
        if self.order.draft.thread.is_memory_only:
            self._private.told(stream.model.id, purpose)
        return stream

    async def _hear(self, stream: ChatStream, request: ChatRequest, purpose: Purpose) -> None:
        try:
            await self._hear_all(stream)
        except ModelTooLarge:
            raise
        except AllodError as error:
            if not self.order.continues or self._first_token_s is not None:
                raise
            # a template, or a model that thinks, that takes no half answer gets the prompt as it would be rendered
            raw = await continued(self._context, request, error, purpose)
            await self._hear_all(await self._open(raw, purpose))

    def _note_model(self, model: ModelId, request: ChatRequest) -> None:
        self.message = replace(
            self.message,
            model=model,
            seed=request.seed,
            parameters=self.order.parameters,
            assistant=self.order.assistant.id,
            assistant_version=self.order.assistant.version or None,
        )

    async def _hear_all(self, stream: ChatStream) -> None:
        async with aclosing(stream.events()) as events:
            async for event in events:
                self._take_in(event)

    def _take_in(self, event: ChatEvent) -> None:
        match event:
            case Progress():
                self._say("reading", done=event.processed, total=event.total, cached=event.cached)
            case ReasoningDelta(text=text):
                self._take(event, "thinking", "reasoning", {"text": text})
            case TextDelta(text=text):
                self._take(event, "writing", "text", {"text": text})
            case ToolCallDelta():
                call = {
                    "index": event.index,
                    "id": event.id,
                    "name": event.name,
                    "arguments": event.arguments,
                }
                self._take(event, "writing", "tool_call", call)
            case ChoiceFinished():
                self._ended_as = ENDS[event.reason]
            case Usage():
                self._usage = event

    def _take(self, event: ChatEvent, state: str, kind: str, data: Mapping[str, Any]) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._began
        if self.state != state:
            self._say(state)
        self._parts.add(event)
        self._is_dirty = True
        self.log.add(kind, data)

    def _say(self, state: str, **facts: Any) -> None:
        self.state = state
        self.log.add("state", {"state": state, **facts})

    # while nothing has come yet

    async def _watch_model(self) -> None:
        """Tell what the run waits for: its place in the line, or how much of the model is loaded."""
        progress: dict[str, float] = {}

        async def note(event: ModelLoadProgressed) -> None:
            if event.purpose == self.order.draft.purpose:
                progress[event.model] = event.progress

        end = self._context.events.subscribe(ModelLoadProgressed, note)
        try:
            card = await self._context.models.find(self.order.model)
            said: tuple[str, float] = ("", 0)
            while self.state in ("queued", "loading"):
                state = self._context.models.state(card.id, self.order.draft.purpose)
                if state == "starting":
                    fraction = progress.get(card.id, 0.0)
                    if said != (state, fraction):
                        self._say("loading", bytes=int(fraction * card.size_bytes), total=card.size_bytes)
                        said = (state, fraction)
                else:
                    place = self._place_in_line(card.id)
                    if place and said != (state, place):
                        self._say("queued", place=place)
                        said = (state, place)
                await asyncio.sleep(_LOOK_EVERY_S)
        except NotFound:
            pass  # asking the model says so too, and better
        finally:
            end()

    def _place_in_line(self, model: ModelId) -> int:
        for row in self._context.models.report():
            if (row["model"], row["purpose"]) == (model, self.order.draft.purpose):
                return int(str(row["waiting"]))
        return 0

    # what is kept

    async def _keep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            if self._is_dirty:
                self._is_dirty = False
                try:
                    await self._archive.write(partial(_keep, message=self.so_far()))
                except Exception:  # the disk is full, say: the answer goes on, and is kept at its end
                    self._context.log.exception("an answer could not be kept yet")

    def so_far(self) -> Message:
        """The message with all that has come."""
        return replace(self.message, parts=self._parts.parts)

    async def _end(self) -> None:
        if self.order.draft.seen:
            self.order.draft.seen["cached_tokens"] = self._usage.cached_tokens
        took_s = time.monotonic() - self._began
        self.message = replace(
            self.message,
            parts=self._parts.parts,
            status=self._ended_as,
            usage=counted(self._usage, self.message.usage),
            timings=_timed(self._usage, took_s, self._first_token_s),
        )
        try:
            kept: Message | None = await self._archive.write(self._kept_for_good)
            self.message = kept or self.message
        except AllodError as error:  # the next start finds it unfinished, with what was kept last
            self._context.log.error("an answer could not be kept: %s", error.detail)
            said = {"code": error.code, "detail": error.detail, "fix": error.fix}
            self.message = replace(self.message, status="error", error=said)
        self.state = self.message.status
        self.log.add("ended", {"state": self.state, "message": message_as_json(self.message)})

    def _kept_for_good(self, rows: Rows) -> Message | None:
        """The message as it is kept now; None where it, or its thread, was deleted meanwhile."""
        order = self.order
        try:
            thread = rows.thread(order.draft.thread.id)
            kept = change(rows, rows.message(self.message.id), **_answered(self.message))
        except NotFound:
            return None
        if order.draft.seen and order.draft.kept_from != thread.kept_from:
            rows.put_thread(replace(thread, kept_from=order.draft.kept_from))
        record = rows.run(order.run)
        rows.put_run(
            replace(
                record, state=kept.status, ended_at=time.time(), context=order.draft.seen or record.context
            )
        )
        rows.tell(ChatRunChanged(thread.id, order.run, kept.id, kept.status))
        return kept


def _request(order: Order) -> ChatRequest:
    parameters = dict(order.parameters)
    limit, seed = parameters.pop("max_tokens", None), parameters.pop("seed", None)
    drawn = {} if seed is None else {"seed": seed}
    return ChatRequest(
        model=order.model, messages=[], parameters=parameters, max_tokens=limit, wants_progress=True, **drawn
    )


def _answered(message: Message) -> dict[str, Any]:
    """What a run changes of a message; all else may have been changed by others meanwhile."""
    names = "parts status error model seed parameters assistant assistant_version usage timings".split()
    return {name: getattr(message, name) for name in names}


def _keep(rows: Rows, message: Message) -> None:
    rows.put_message(replace(rows.message(message.id), **_answered(message)))


def _timed(usage: Usage, took_s: float, first_token_s: float | None) -> dict[str, float]:
    timings = {"total_s": round(took_s, 3), **usage.timings}
    if first_token_s is not None:
        timings["first_token_s"] = round(first_token_s, 3)
    return timings
