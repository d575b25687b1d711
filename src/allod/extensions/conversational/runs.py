"""Runs: begun by a question, they live in the server whoever listens. One at a time in each thread; others wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from allod.extensions.conversational.assistants import assistant_of, named
from allod.extensions.conversational.attachments import own_parts
from allod.extensions.conversational.compose import Composer, Draft
from allod.extensions.conversational.events import ChatRunChanged, QueueChanged
from allod.extensions.conversational.live import Live, Order
from allod.extensions.conversational.parts import Part
from allod.extensions.conversational.private import Private
from allod.extensions.conversational.records import (
    CAN_CONTINUE,
    Message,
    Queued,
    RunRecord,
    Status,
    Thread,
    new_id,
)
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.run_log import frame
from allod.extensions.conversational.shelf import Shelf
from allod.extensions.conversational.shown import message_as_json
from allod.extensions.conversational.tree import change, check_role, grow, message_of, show
from allod.sdk.context import Context
from allod.sdk.errors import AllodError, BadRequest, Conflict, NotFound
from allod.sdk.services import Assistant

_KEPT_S = 600
_OPTIONS = ("parent", "instead_of", "model", "assistant", "parameters")
_NEXT_AFTER: tuple[Status, ...] = ("done", "length")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked for: an answer to new `parts`, another one in place of `regenerate`, more of `continues`, or,
    with none of them, an answer to the last question of the active branch.

    New parts follow the answer `parent`, or stand beside the question `instead_of`; else they end the active branch.
    `model`, `assistant` and `parameters` go before the thread's own.
    """

    parts: tuple[Part, ...] = ()
    parent: str | None = None
    instead_of: str | None = None
    regenerate: str | None = None
    continues: str | None = None
    model: str = ""
    assistant: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that has begun, and the messages that are its own."""

    run: str
    question: Message | None
    answer: Message


class Runs:
    """All runs of this server that live, or have ended within ten minutes."""

    def __init__(self, context: Context[Any], shelf: Shelf, composer: Composer, private: Private) -> None:
        self._context = context
        self._shelf = shelf
        self._composer = composer
        self._private = private
        self._lives: dict[str, Live] = {}
        self._by_thread: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._is_closing = False
        self.ended = asyncio.Event()
        """Set after each answer."""
        self.idle_since = time.monotonic()
        """When the last run ended; only of use while `is_idle`."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return all(live.has_ended.is_set() for live in self._by_thread.values())

    def of_thread(self, thread: str) -> Live | None:
        """The run that answers in a thread now."""
        live = self._by_thread.get(thread)
        return None if live is None or live.has_ended.is_set() else live

    @asynccontextmanager
    async def alone(self, thread: str) -> AsyncIterator[None]:
        """Inside, nothing is being answered in this thread, and nothing begins to be: what is, ends where it is."""
        async with self._turn(thread):
            if (live := self._by_thread.pop(thread, None)) is not None:
                live.stop()
                await live.has_ended.wait()
            yield

    def _turn(self, thread: str) -> asyncio.Lock:
        return self._turns.setdefault(thread, asyncio.Lock())

    # begin

    async def start(self, thread: str, asked: Asked, *, queues: bool = True) -> Begun | Queued:
        """Begin a run; while another runs in this thread, the question waits its turn. What is given back is kept.

        Raises NotFound, BadRequest, and Conflict where it cannot be begun now.
        """
        async with self._turn(thread):
            if self.of_thread(thread) is not None:
                return await self._wait_in_line(thread, asked, queues=queues)
            return await self._begin(thread, asked)

    async def _wait_in_line(self, thread: str, asked: Asked, *, queues: bool) -> Queued:
        if not queues or not asked.parts:
            raise Conflict(
                f"The thread {thread!r} is being answered.", fix="Stop that run, or wait for its end."
            )
        options = {name: value for name in _OPTIONS if (value := getattr(asked, name))}
        queued = Queued(new_id("queued"), thread, time.time(), asked.parts, options)

        def work(rows: Rows) -> Queued:
            rows.thread(thread)  # else it was deleted in this moment
            kept = replace(queued, parts=own_parts(rows, thread, queued.parts))
            rows.put_queued(kept)
            rows.tell(QueueChanged(thread))
            return kept

        return await self._shelf.of(thread).write(work)

    async def _begin(self, thread: str, asked: Asked, queued: str | None = None) -> Begun:
        """Begin a run; the message that waited leaves the line in the same transaction."""
        archive = self._shelf.of(thread)
        found = await archive.read(lambda rows: rows.thread(thread))
        assistant = await self._assistant(asked, found)
        run = new_id("run")

        def work(rows: Rows) -> tuple[Thread, Message | None, Message]:
            if queued is not None:
                rows.drop_queued(queued)
                rows.tell(QueueChanged(thread))
            kept, question, answer = _prepared(rows, thread, asked)
            rows.put_run(RunRecord(run, thread, answer.id, time.time()))
            rows.tell(ChatRunChanged(thread, run, answer.id, "queued"))
            return kept, question, answer

        if self._is_closing:
            raise Conflict("The server is stopping.", fix="Ask again once it runs.")
        kept, question, answer = await archive.write(work)
        order = Order(
            run=run,
            draft=Draft(archive, kept, answer, assistant),
            continues=asked.continues is not None,
            model=asked.model or kept.model or assistant.model or "default",
            parameters={**assistant.parameters, **kept.parameters, **asked.parameters},
            assistant=assistant,
        )
        live = Live(self._context, archive, self._composer, self._private, order)
        if self._is_closing:
            live.stop("interrupted")
        self._lives[run] = self._by_thread[thread] = live
        task = asyncio.create_task(self._live(live), name=f"run {run}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Begun(run, question, answer)

    async def _assistant(self, asked: Asked, thread: Thread) -> Assistant:
        if asked.assistant:
            assistant = await named(self._context, asked.assistant)
        else:
            assistant = await assistant_of(self._context, thread.assistant)
        if assistant.memory_only and not thread.is_memory_only:
            raise Conflict(
                f"{assistant.name!r} leaves no trace, and the thread {thread.id!r} is kept.",
                fix="Begin a thread in memory only, or choose another assistant.",
            )
        return assistant

    async def _live(self, live: Live) -> None:
        thread = live.order.draft.thread.id
        try:
            await live.run()
        finally:
            self.idle_since = time.monotonic()
            self.ended.set()
            asyncio.get_running_loop().call_later(_KEPT_S, self._lives.pop, live.order.run, None)
        async with self._turn(thread):
            if self._by_thread.get(thread) is not live:
                return  # it was ended from outside, or another has begun already
            del self._by_thread[thread]
            if live.state in _NEXT_AFTER and not self._is_closing:
                await self._send_next(thread)

    async def _send_next(self, thread: str) -> None:
        """Begin with what waits next. What cannot be begun stays where it is."""
        try:
            waiting = await self._shelf.of(thread).read(lambda rows: rows.queue(thread))
            if waiting:
                asked = Asked(parts=waiting[0].parts, **waiting[0].options)
                await self._begin(thread, asked, queued=waiting[0].id)
        except NotFound:
            return  # the thread was deleted
        except AllodError as error:
            self._context.log.warning("a message that waited could not be sent: %s", error.detail)

    # while they live

    def stop(self, run: str) -> None:
        """Let a run end where it is. Nothing happens if it has ended."""
        if (live := self._lives.get(run)) is not None:
            live.stop()

    async def wait(self, run: str) -> None:
        """Wait until a run has ended."""
        if (live := self._lives.get(run)) is not None:
            await live.has_ended.wait()

    async def events(self, run: str, after: int = 0) -> AsyncGenerator[bytes, None]:
        """What a run says, from behind frame `after`, as server-sent events.

        Of one that ended long ago only its message is known: it comes as one event. Raises NotFound.
        """
        live = self._lives.get(run)
        if live is not None:
            return live.log.read(after)
        record, message = await self._shelf.find_run(run)
        return _snapshot(record, message)

    def live(self, run: str) -> Live | None:
        """A run that lives, or has just ended."""
        return self._lives.get(run)

    def forget(self, thread: str) -> None:
        """Drop what is still known of a thread's ended runs."""
        for run, live in list(self._lives.items()):
            if live.order.draft.thread.id == thread and live.log.is_closed:
                del self._lives[run]

    async def close(self) -> None:
        """Let all end, as interrupted."""
        self._is_closing = True
        while self._tasks:
            for live in self._by_thread.values():
                live.stop("interrupted")
            await asyncio.wait(self._tasks)


async def _snapshot(record: RunRecord, message: Message) -> AsyncGenerator[bytes, None]:
    yield frame("snapshot", {"state": record.state, "message": message_as_json(message)})


def _prepared(rows: Rows, id: str, asked: Asked) -> tuple[Thread, Message | None, Message]:
    """The thread, the new question if there is one, and the message that is to be written."""
    thread = rows.thread(id)
    if thread.deleted_at is not None:
        raise Conflict(f"The thread {id!r} is in the trash.", fix="Take it out first.")
    named = [name for name in ("parts", "regenerate", "continues") if getattr(asked, name)]
    if len(named) > 1:
        raise BadRequest(f"A run does one thing, not {' and '.join(named)}.", fix="Name one.", param=named[1])
    if asked.continues is not None:
        return _continued(rows, thread, asked.continues)
    question = None
    if asked.regenerate is not None:
        before = message_of(rows, id, asked.regenerate)
        if before.role != "assistant":
            raise BadRequest(f"{before.id!r} is no answer.", fix="Name an answer.", param="regenerate")
        above = before.parent
    elif asked.parts:
        parent = asked.parent if asked.parent is not None else thread.active
        if asked.instead_of is not None:
            parent = message_of(rows, id, asked.instead_of).parent
        check_role(id, None if parent is None else message_of(rows, id, parent), "user")
        thread, question = grow(rows, thread, parent, "user", asked.parts)
        above = question.id
    else:
        above = thread.active
        check_role(id, None if above is None else rows.message(above), "assistant")
    thread, answer = grow(rows, thread, above, "assistant", (), status="writing")
    return thread, question, answer


def _continued(rows: Rows, thread: Thread, id: str) -> tuple[Thread, None, Message]:
    message = message_of(rows, thread.id, id)
    if message.role != "assistant" or message.status not in CAN_CONTINUE or message.chosen is not None:
        raise Conflict(
            f"{id!r} cannot be continued: it is no answer that was cut short at the end of its branch.",
            fix="Ask a question instead.",
        )
    shown = show(rows, thread, id)
    return shown, None, change(rows, message, status="writing", error=None)
