"""Answers of a worker, read as they come. Always streamed: llama.cpp ends no plain request early."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from allod.extensions.llamacpp.tools import CallReader
from allod.extensions.llamacpp.wire import DONE, ERROR, UsageCounter, error_from, error_of, frames_of
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.errors import EngineFailed, EngineGone
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, Usage

_PROGRESS = b'"prompt_progress"'


@dataclass(frozen=True, slots=True)
class Ask:
    """What to send to a worker, and how to read its frames."""

    path: str
    body: dict[str, Any]
    read: Callable[[dict[str, Any]], Iterator[ChatEvent]]


class WorkerStream:
    """One answer. `worker` gives the running worker; `ask` may talk to it first (template, grammar)."""

    def __init__(
        self,
        worker: Callable[[], Worker],
        ask: Callable[[Worker], Awaitable[Ask]],
        *,
        wire: Literal["openai.chat"] | None,
        wants_progress: bool = False,
    ) -> None:
        self._worker = worker
        self._ask = ask
        self._wants_progress = wants_progress
        self._processed = 0
        self._counter = UsageCounter()
        self.wire = wire

    @property
    def usage(self) -> Usage | None:
        """Known once the stream has ended in order."""
        return self._counter.usage

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The worker's own frames, untouched; [DONE] is left out, and unwanted progress becomes a comment."""
        worker = self._worker()
        async with worker.working():
            ask = await self._ask(worker)
            async with aclosing(self._chunks(worker, ask)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """The same, typed."""
        worker = self._worker()
        async with worker.working():
            ask = await self._ask(worker)
            self._wants_progress = True
            async with aclosing(self._chunks(worker, ask)) as chunks:
                async for chunk in chunks:
                    for frame in frames_of(chunk):
                        for event in ask.read(frame):
                            yield event

    async def _chunks(self, worker: Worker, ask: Ask) -> AsyncGenerator[bytes, None]:
        """Whole frames, one or more at a time, with errors raised."""
        answer = await worker.stream(ask.path, ask.body)
        if answer.status != 200:
            raise error_of(answer.status, await answer.read(), worker.model)
        rest = b""
        reading_prompt = True
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                if rest or not chunk.endswith(b"\n\n"):
                    whole, gap, rest = (rest + chunk).rpartition(b"\n\n")
                    chunk = whole + gap
                    if not chunk:
                        continue
                if (at := chunk.find(ERROR)) >= 0:
                    if at and not reading_prompt:
                        yield chunk[:at]
                    raise _error_in(chunk[at:], worker.model)
                self._counter.look_at(chunk)
                if reading_prompt:
                    chunk, reading_prompt = self._without_progress(worker, chunk)
                worker.sign()
                if chunk.endswith(DONE):
                    if len(chunk) > len(DONE):
                        yield chunk.removesuffix(DONE)
                    return
                if chunk:
                    yield chunk
        if self._counter.usage is None:  # some routes of llama.cpp end without [DONE]
            raise EngineGone(f"{worker.model!r} ended while it worked on this request.")

    def _without_progress(self, worker: Worker, chunk: bytes) -> tuple[bytes, bool]:
        """`chunk` less its progress frames, unless wanted; and whether the prompt is still being read."""
        if _PROGRESS not in chunk:
            return chunk, chunk.startswith(b":")
        for frame in frames_of(chunk):
            if progress := frame.get("prompt_progress"):
                worker.read_batch(progress["processed"] - self._processed)
                self._processed = progress["processed"]
        if self._wants_progress:
            return chunk, True
        frames = chunk.split(b"\n\n")
        return b"\n\n".join(b":" if _PROGRESS in frame else frame for frame in frames), True


def _error_in(chunk: bytes, model: str) -> EngineFailed | Exception:
    for frame in frames_of(chunk):
        if "error" in frame:
            return error_from(frame["error"], model)
    return EngineFailed(f"{model!r}: the engine reported an error that could not be read.")


def reading_calls(
    read: Callable[[dict[str, Any]], Iterable[ChatEvent]],
) -> Callable[[dict[str, Any]], Iterator[ChatEvent]]:
    """`read`, with each choice's text turned into tool calls where it is one."""
    readers: dict[int, CallReader] = {}

    def reading(frame: dict[str, Any]) -> Iterator[ChatEvent]:
        for event in read(frame):
            if isinstance(event, (TextDelta, ChoiceFinished)):
                reader = readers.setdefault(event.choice, CallReader(event.choice))
                yield from reader.read(event) if isinstance(event, TextDelta) else reader.finish(event)
            else:
                yield event

    return reading


async def ask_json(worker: Worker, path: str, body: dict[str, Any], *, timeout_s: float = 60) -> Any:
    """POST something small to a worker and give its JSON. Raises our error for its."""
    async with worker.noticing_end():
        reply = await worker.http.request("POST", path, body, timeout_s=timeout_s)
    if reply.status != 200:
        raise error_of(reply.status, reply.body, worker.model)
    return orjson.loads(reply.body)


class EchoStream:
    """A completion that begins with its own prompt, token by token, with log-probabilities."""

    wire: Literal["openai.chat"] | None = None

    def __init__(
        self,
        worker: Callable[[], Worker],
        prompt: Callable[[Worker], Awaitable[tuple[Sequence[ChatEvent], int]]],
        then: WorkerStream | None,
        choices: int,
    ) -> None:
        self._worker = worker
        self._prompt = prompt
        self._then = then
        self._choices = choices
        self._prompt_tokens = 0

    @property
    def usage(self) -> Usage | None:
        """Known once the stream has ended in order."""
        if self._then is not None:
            return self._then.usage
        return Usage(prompt_tokens=self._prompt_tokens)

    def frames(self) -> AsyncGenerator[bytes, None]:
        """Not offered."""
        raise TypeError("this answer can be read as events only")

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """The prompt, then what follows it."""
        worker = self._worker()
        async with worker.working():
            prompt, self._prompt_tokens = await self._prompt(worker)
        for choice in range(self._choices):
            for event in prompt:
                if isinstance(event, TextDelta):
                    yield TextDelta(choice, event.text, event.logprobs)
        if self._then is None:
            for choice in range(self._choices):
                yield ChoiceFinished(choice, "length")
            return
        async with aclosing(self._then.events()) as events:
            async for event in events:
                yield event
