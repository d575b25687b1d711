"""What is done while nobody waits: titles are found, summaries written. The first key of the user ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from allod.extensions.conversational.assistants import assistant_of, instructions_of
from allod.extensions.conversational.events import ThreadChanged
from allod.extensions.conversational.files import Files
from allod.extensions.conversational.parts import as_openai
from allod.extensions.conversational.records import Message, Thread
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.runs import Runs
from allod.extensions.conversational.settings import ConversationalSettings
from allod.extensions.conversational.shelf import Shelf
from allod.extensions.conversational.store import lists
from allod.extensions.conversational.summary import summarize
from allod.sdk.chat import ChatRequest
from allod.sdk.context import Context
from allod.sdk.engine import ModelId
from allod.sdk.errors import AllodError, NotFound
from allod.sdk.stream import TextDelta

_QUIET_S = 2.0
_RECENT_S = 86400
_LONGEST = 80
_TITLE_TOKENS = 24
_ASK = (
    "Write a title of at most six words for this conversation, in its language. Answer with the title only."
)


class Idle:
    """Works when it is quiet."""

    def __init__(self, context: Context[ConversationalSettings], shelf: Shelf, runs: Runs) -> None:
        self._context = context
        self._shelf = shelf
        self._runs = runs
        self._disturbed_at = time.monotonic()
        self._working: asyncio.Task[None] | None = None
        self._tried: set[str] = set()
        self._wanted = runs.ended

    def disturb(self) -> None:
        """Somebody is there: give way at once."""
        self._disturbed_at = time.monotonic()
        if self._working is not None:
            self._working.cancel()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wanted.wait()
            await self._quiet()
            self._wanted.clear()
            self._working = asyncio.create_task(self._work(), name="idle work")
            try:
                await asyncio.wait([self._working])
            finally:
                self._working.cancel()
            if self._working.cancelled():
                self._wanted.set()  # later, then
            self._working = None

    async def _quiet(self) -> None:
        while True:
            last = max(self._disturbed_at, self._runs.idle_since)
            if self._runs.is_idle and (left := last + _QUIET_S - time.monotonic()) <= 0:
                return
            await asyncio.sleep(left if self._runs.is_idle else 0.5)

    async def _work(self) -> None:
        store = self._context.store
        if self._context.settings.titles:
            since = time.time() - _RECENT_S
            for id in await store.read(partial(lists.untitled, changed_after=since)):
                if id not in self._tried:
                    await self._tell(self._find_title(id))
        for id in await store.read(lists.summarized):
            await self._tell(summarize(self._context, self._shelf.store, id))

    async def _tell(self, work: Coroutine[None, None, None]) -> None:
        """Do it; where it cannot be done, say so in the log and go on."""
        try:
            await work
        except NotFound:
            return  # the thread was deleted meanwhile
        except AllodError as error:
            self._context.log.info("not done while it was quiet: %s", error.code)

    async def _find_title(self, id: str) -> None:
        def first_turn(rows: Rows) -> tuple[Thread, list[Message]]:
            thread = rows.thread(id)
            return thread, rows.path(thread.active)[:2] if thread.active is not None else []

        thread, turn = await self._shelf.store.read(first_turn)
        if [message.role for message in turn] != ["user", "assistant"] or not turn[1].parts:
            return
        card = await self._context.models.find(turn[1].model or thread.model or "default")
        if not card.is_local or (card.size_bytes and self._context.models.state(card.id) != "ready"):
            return  # nothing is loaded, unloaded or sent away for a title
        try:
            title = await self._asked_for_title(thread, turn, card.id)
        except AllodError:
            self._tried.add(id)
            raise
        self._tried.add(id)

        def keep(rows: Rows) -> None:
            now = rows.thread(id)
            if title and now.title_source == "none":
                rows.put_thread(replace(now, title=title, title_source="auto"))
                rows.tell(ThreadChanged(id, "changed"))

        await self._shelf.store.write(keep)

    async def _asked_for_title(self, thread: Thread, turn: list[Message], model: ModelId) -> str:
        """The question goes behind the chat's own beginning, so that it is read from the cache, and leaves it there."""
        files = Files(self._shelf.store, thread.id, await self._context.models.find(model))
        (turn,) = await files.opened([turn])
        images = await files.images(turn)
        messages = [each for message in turn for each in as_openai(message.role, message.parts, images)]
        assistant = await assistant_of(self._context, turn[1].assistant)
        if instructions := instructions_of(assistant, thread):
            messages.insert(0, {"role": "system", "content": instructions})
        request = ChatRequest(
            model=model,
            messages=[*messages, {"role": "user", "content": _ASK}],
            parameters={"temperature": 0.2},
            max_tokens=_TITLE_TOKENS,
        )
        stream = await self._context.chat.open(request)
        async with aclosing(stream.events()) as events:
            said = "".join([event.text async for event in events if isinstance(event, TextDelta)])
        return _as_title(said)


def _as_title(said: str) -> str:
    lines = [line.strip(" #*\"'“”„«»「」《》.。:：") for line in said.splitlines()]
    first = next((line for line in lines if line), "")
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1].rstrip()}…"
