"""Conversations in a whole kernel, with a model that says what the test wants, when it wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from allod.extensions.conversational.extension import Rooms
from allod.extensions.conversational.parts import Text, text_of
from allod.extensions.conversational.records import Message, Queued, Thread, new_id
from allod.extensions.conversational.runs import Asked, Begun
from allod.kernel.house import House
from allod.sdk.chat import ChatRequest, CompletionRequest, Run
from allod.sdk.chat import text_of as content_of
from allod.sdk.engine import Engine, ModelCard, ModelId
from allod.sdk.errors import AllodError, ModelTooLarge
from allod.sdk.extension import Extension, Manifest
from allod.sdk.stream import ChatEvent, ChoiceFinished, Progress, TextDelta, Usage
from allod.testing.house import point, standing

CONTEXT = 1000


@dataclass
class Script:
    """What the model says next, word by word; it waits before each while `gate` is closed.

    After so many words as `pauses_at` says it closes the gate itself.
    """

    words: list[str] = field(default_factory=lambda: ["well, ", "hello"])
    ends: Literal["stop", "length"] = "stop"
    fails: AllodError | None = None
    pauses_at: int | None = None
    has_room: bool = True
    asked_for: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    heard: list[ChatRequest | CompletionRequest] = field(default_factory=list)
    said: int = 0

    def __post_init__(self) -> None:
        self.gate.set()


class Stream:
    wire: Literal["openai.chat"] | None = None

    def __init__(self, script: Script, request: ChatRequest | CompletionRequest, *, fits: bool) -> None:
        self._fits = fits
        self._script = script
        self._request = request
        self.usage: Usage | None = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError
        yield b""

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        script = self._script
        if not self._fits:
            raise ModelTooLarge("There is no room for a worker of its own.")
        script.heard.append(self._request)
        yield Progress(total=10, cached=0, processed=10, time_ms=1)
        for word in script.words:
            await script.gate.wait()
            script.said += 1
            if script.said == script.pauses_at:
                script.gate.clear()
            yield TextDelta(0, word)
        await script.gate.wait()
        if script.fails is not None:
            raise script.fails
        yield ChoiceFinished(0, script.ends)
        self.usage = Usage(10, len(script.words), 4)
        yield self.usage


class TellerEngine:
    """Counts a word as a token, and three more for each message."""

    name = "teller"

    def __init__(self, script: Script) -> None:
        self.script = script

    async def models(self) -> Sequence[ModelCard]:
        return [ModelCard(ModelId("teller"), self.name, "Teller", CONTEXT, size_bytes=0)]

    def chat(self, run: Run) -> Stream:
        assert isinstance(run.request, ChatRequest | CompletionRequest)
        self.script.asked_for.append(run.purpose)
        return Stream(self.script, run.request, fits=self.script.has_room or run.purpose == "chat")

    async def count_tokens(self, run: Run) -> int:
        assert isinstance(run.request, ChatRequest)
        return sum(3 + len(content_of(message).split()) for message in run.request.messages)

    async def tokenize(self, model: ModelId, text: str, *, special: bool, pieces: bool) -> Any:
        raise NotImplementedError

    async def detokenize(self, model: ModelId, ids: Sequence[int]) -> str:
        raise NotImplementedError

    async def apply_template(self, run: Run) -> str:
        assert isinstance(run.request, ChatRequest)
        return "".join(f"<{message['role']}>{content_of(message)}" for message in run.request.messages)


class Teller(Extension[Any]):
    manifest = Manifest(name="teller", summary="Says what a test wants.")
    script: Script

    async def start(self) -> None:
        self.script = Script()

    def engines(self) -> Sequence[Engine]:
        return [TellerEngine(self.script)]


@dataclass
class Talk:
    """Conversations, and the script of their model."""

    house: House
    rooms: Rooms
    script: Script

    async def thread(self, *, memory_only: bool = False, **fields: Any) -> str:
        made = Thread(new_id("thread"), 1, 1, is_memory_only=memory_only, **fields)
        return (await self.rooms.desk.create(made)).id

    async def ask(self, thread: str, text: str = "hello", **fields: Any) -> Begun:
        begun = await self.rooms.runs.start(thread, Asked(parts=(Text(text=text),), **fields))
        assert isinstance(begun, Begun)
        return begun

    async def wait_in_line(self, thread: str, text: str) -> Queued:
        queued = await self.rooms.runs.start(thread, Asked(parts=(Text(text=text),)))
        assert isinstance(queued, Queued)
        return queued

    async def answered(self, thread: str, text: str = "hello", **fields: Any) -> Message:
        """Ask, and wait for the whole answer."""
        begun = await self.ask(thread, text, **fields)
        await self.rooms.runs.wait(begun.run)
        return await self.message(thread, begun.answer.id)

    async def message(self, thread: str, id: str) -> Message:
        return await self.rooms.desk.message(thread, id)

    async def texts(self, thread: str) -> list[str]:
        """The texts of the active branch."""
        return [text_of(message.parts) for message in (await self.rooms.desk.open(thread)).page.messages]

    async def follow(self, run: str, after: int = 0) -> list[tuple[int, str, Any]]:
        """All that a run says, as (id, event, data)."""
        async with aclosing(await self.rooms.runs.events(run, after)) as frames:
            return [read(frame) async for frame in frames]


def read(frame: bytes) -> tuple[int, str, Any]:
    fields = dict(line.split(": ", 1) for line in frame.decode().strip().split("\n"))
    return int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])


@asynccontextmanager
async def talking(folder: Path) -> AsyncIterator[Talk]:
    """A house with conversations, assistants and the teller; opening it again on the same folder is a new start."""
    points = [
        point("conversational", "allod.extensions.conversational.extension:Conversational"),
        point("assistant", "allod.extensions.assistant.extension:AssistantExtension"),
        point("teller", f"{__name__}:Teller"),
    ]
    async with standing(folder, points) as house:
        conversational: Any = house.host.get("conversational").extension
        teller: Any = house.host.get("teller").extension
        assert conversational is not None, house.host.get("conversational").reason
        yield Talk(house, conversational.rooms, teller.script)
