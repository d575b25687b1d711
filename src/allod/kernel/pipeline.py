"""The life of an answer, after the dialect has read the request and before it writes the reply.

stages (COMPOSE, ENRICH, CHOOSE, ROUTE) -> lease -> engine -> the same stream handed back -> stages' `after`, metrics.
Where the model calls a tool of the server: toolbox -> ROUTE again -> lease -> engine. This is the one loop of its kind.
Every dialect and every face enters here, so that no way leads round a stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

from allod.kernel.metrics import Metrics
from allod.kernel.models import ModelTable, as_tokenizing
from allod.kernel.offers import offers
from allod.kernel.scheduler import Scheduler
from allod.kernel.seats import Need
from allod.kernel.stages import Seated, Stages
from allod.kernel.tool_calls import ToolCalls
from allod.kernel.toolbox import Toolbox
from allod.sdk.chat import ChatRequest, CompletionRequest, EmbeddingRequest, GenerateRequest, Run
from allod.sdk.engine import (
    Embedding,
    EmbeddingEngine,
    Engine,
    LoadableEngine,
    LoadPlan,
    ModelCard,
    TokenizingEngine,
)
from allod.sdk.errors import AllodError, BadRequest, EngineGone
from allod.sdk.events import Events, RunFinished
from allod.sdk.stage import Ending, Phase
from allod.sdk.stream import ChatEvent, ChatStream, Progress, Usage

T = TypeVar("T")

# A token is at least one byte of text, so bytes bound tokens; a message's own marks and a template's words come on top.
_TOKENS_PER_MESSAGE = 16
_TOKENS_OF_TEMPLATE = 256
_TOOL_ROUNDS = 10
_BEFORE_ROUTE = (Phase.COMPOSE, Phase.ENRICH, Phase.CHOOSE)
_ROUTE = (Phase.ROUTE,)


class Pipeline:
    """Opens answers."""

    def __init__(
        self,
        *,
        models: ModelTable,
        scheduler: Scheduler,
        stages: Stages,
        toolbox: Toolbox,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self.models = models
        self.scheduler = scheduler
        self.stages = stages
        self.toolbox = toolbox
        self._events = events
        self._metrics = metrics

    async def open(self, run: Run) -> Answer:
        """Take a run through the stages to its engine. Nothing is loaded or waited for until the answer is read.

        Raises what a stage refuses with, ModelNotFound, and what the engine cannot honour.
        """
        began = time.monotonic()
        seated = self.stages.all
        engine = await self._enter(run)
        request = run.request
        if not isinstance(request, GenerateRequest):
            raise TypeError(f"{type(request).__name__} is not a request for text")
        if run.tools:
            if not isinstance(request, ChatRequest) or request.choices > 1:
                raise BadRequest("The server's tools are for single answers of chats.", param="tools")
            request.parameters["tools"] = [
                *(request.parameters.get("tools") or ()),
                *self.toolbox.describe(run.tools),
            ]
        return Answer(self, run, engine, began, seated)

    async def embed(self, run: Run) -> Sequence[Embedding]:
        """A vector for each input of an EmbeddingRequest."""
        began = time.monotonic()
        seated = self.stages.all
        engine = await self._enter(run)
        request = run.request
        if not offers(engine, EmbeddingEngine) or not isinstance(request, EmbeddingRequest):
            raise BadRequest(f"{request.model!r} makes no embeddings.", param="model")
        bound = max((_bound(text) for text in request.inputs), default=0)
        async with self._finishing(run, began, seated) as usage:
            vectors: Sequence[Embedding] = await self._leased(
                run, engine, Need(1, bound), lambda: engine.embed(run)
            )
            usage.append(Usage(prompt_tokens=sum(vector.tokens for vector in vectors)))
            return vectors

    async def tokenizer(self, run: Run) -> TokenizingEngine:
        """Who says what the run's model would see, once the stages are done with it. Nothing is loaded for that.

        Raises what a stage refuses with, ModelNotFound, BadRequest.
        """
        return as_tokenizing(await self._enter(run), run.request.model)

    async def _leased(self, run: Run, engine: Engine, need: Need, work: Callable[[], Any]) -> Any:
        for attempt in (1, 2):
            try:
                async with self.lease(run, engine, need):
                    return await work()
            except EngineGone as error:
                if error.reached or attempt == 2:
                    raise
        raise AssertionError("unreachable")

    async def _enter(self, run: Run, *, again: bool = False) -> Engine:
        """The engine that is to answer. ROUTE sees the model that would, and may name another."""
        if not again:
            await self.stages.before(run, _BEFORE_ROUTE)
        run.model, engine = await self.models.find_usable(run.request.model)
        named = run.request.model
        await self.stages.before(run, _ROUTE)
        if run.request.model != named:
            run.model, engine = await self.models.find_usable(run.request.model)
        return engine

    @asynccontextmanager
    async def lease(self, run: Run, engine: Engine, need: Need) -> AsyncIterator[LoadPlan | None]:
        """Hold the run's model; an engine that holds no memory needs no lease."""
        if not offers(engine, LoadableEngine):
            yield None
            return
        assert run.model is not None
        keep_alive_s = run.request.keep_alive_s
        async with self.scheduler.lease(run.model, engine, need, keep_alive_s, run.purpose) as plan:
            yield plan

    @asynccontextmanager
    async def _finishing(
        self, run: Run, began: float, seated: Sequence[Seated]
    ) -> AsyncIterator[list[Usage]]:
        """Around every run: whatever happens, its stages, metrics and listeners hear how it ended."""
        usage: list[Usage] = []
        outcome = "ok"
        try:
            yield usage
        except AllodError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            ending = Ending(outcome, time.monotonic() - began, usage[0] if usage else None)
            self._account(run, ending)
            await self.stages.after(seated, run, ending)

    def _account(self, run: Run, ending: Ending) -> None:
        assert run.model is not None
        model = run.model.id
        outcome, duration_s, usage = ending.outcome, ending.duration_s, ending.usage or Usage()
        self._metrics.request_duration.labels(model, run.route, outcome).observe(duration_s)
        self._metrics.tokens.labels(model, "input").inc(usage.prompt_tokens)
        self._metrics.tokens.labels(model, "cached").inc(usage.cached_tokens)
        self._metrics.tokens.labels(model, "output").inc(usage.completion_tokens)
        if outcome == "cancelled":
            self._metrics.aborted.labels("client").inc()
        elif outcome.startswith("engine_"):
            self._metrics.aborted.labels("engine").inc()
        self._events.publish(
            RunFinished(model, run.route, outcome, duration_s, usage.prompt_tokens, usage.completion_tokens)
        )


class Answer:
    """An answer that has been opened. Read it once, by `frames()` or `events()`, under `aclosing`."""

    def __init__(
        self, pipeline: Pipeline, run: Run, engine: Engine, began: float, seated: Sequence[Seated]
    ) -> None:
        assert run.model is not None
        self._pipeline = pipeline
        self._seated = seated
        self._engine = engine
        self._began = began
        self.run = run
        self.model: ModelCard = run.model
        self.usage: Usage | None = None
        self._first: ChatStream | None = engine.chat(run)  # refuses now what it could not honour later
        passes = self._first.wire == "openai.chat" and self.request.choices == 1 and not run.tools
        self.wire: Literal["openai.chat"] | None = "openai.chat" if passes else None

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """What the stages say beside the answer."""
        return self.run.notes

    @property
    def request(self) -> GenerateRequest:
        """The request, as the stages left it."""
        return cast(GenerateRequest, self.run.request)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Whole server-sent events as the engine wrote them. Only where `wire` says so."""
        async with aclosing(self._read(lambda stream: stream.frames())) as frames:
            async for frame in frames:
                yield frame

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """Typed events of all choices; one Usage at the end."""
        reading = self._read_with_tools() if self.run.tools else self._read(lambda stream: stream.events())
        async with aclosing(reading) as events:
            async for event in events:
                if not isinstance(event, Usage):
                    yield event
        yield self.usage or Usage()

    async def _read(self, reading: Callable[[ChatStream], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
        """Run the choices, in as many rounds as the model's slots and context ask for."""
        async with self._pipeline._finishing(self.run, self._began, self._seated) as usages:
            whole = self.request
            done = 0
            saw_first = False
            while done < whole.choices:
                size = await self._round_size(whole.choices - done)
                if size < whole.choices:
                    self.run.request = replace(whole, choices=size, seed=whole.seed + done)
                async with aclosing(self._round(reading, self.run, done)) as items:
                    async for item in items:
                        if not saw_first and not isinstance(item, Progress):
                            saw_first = True
                            self._saw_first()
                        yield item
                done += size
            self.run.request = whole
            if self.usage is not None:
                usages.append(self.usage)

    async def _read_with_tools(self) -> AsyncGenerator[ChatEvent, None]:
        """Rounds of one choice: what the model asks of the server's tools is run, and it goes on with the results."""
        pipeline, run = self._pipeline, self.run
        async with pipeline._finishing(run, self._began, self._seated) as usages:
            for left in reversed(range(_TOOL_ROUNDS)):
                calls = ToolCalls(run.tools)
                async with aclosing(self._round(lambda stream: stream.events(), run, 0)) as events:
                    async for event in events:
                        if not calls.keep(event):
                            yield event
                if not calls.are_ours:
                    break
                await self._answer_calls(calls, is_last=left == 1)
            if self.usage is not None:
                usages.append(self.usage)

    async def _answer_calls(self, calls: ToolCalls, *, is_last: bool) -> None:
        pipeline, run = self._pipeline, self.run
        request = cast(ChatRequest, run.request)
        request.messages = [
            *request.messages,
            calls.message(),
            *await pipeline.toolbox.answer(run, calls.complete()),
        ]
        if is_last:  # enough: the next round has none of them, so it can only speak
            own = {tool["function"]["name"] for tool in pipeline.toolbox.describe(run.tools)}
            others = [tool for tool in request.parameters["tools"] if tool["function"]["name"] not in own]
            request.parameters["tools"] = others
            if not others:
                del request.parameters["tools"]
        # what the tools brought back may be more private than the question was
        self._engine = await pipeline._enter(run, again=True)
        assert run.model is not None
        self.model = run.model

    async def _round(
        self, reading: Callable[[ChatStream], AsyncIterator[T]], run: Run, offset: int
    ) -> AsyncGenerator[T, None]:
        """One round under one lease. Choices are numbered from 0 by the engine and from `offset` for the caller."""
        for attempt in (1, 2):
            stream = self._first if self._first is not None else self._engine.chat(run)
            self._first = None
            try:
                need = self._need(cast(GenerateRequest, run.request))
                async with self._pipeline.lease(run, self._engine, need):
                    async with aclosing(cast(AsyncGenerator[T, None], reading(stream))) as items:
                        async for item in items:
                            yield _renumbered(item, offset) if offset else item
                self.usage = stream.usage if self.usage is None else self.usage + (stream.usage or Usage())
                return
            except EngineGone as error:
                if error.reached or attempt == 2:
                    raise  # else it never saw the request: a new worker gets it

    async def _round_size(self, wanted: int) -> int:
        if wanted == 1 or not offers(self._engine, LoadableEngine):
            return wanted
        self._first = None
        plan = await self._pipeline.scheduler.plan(self.model, self._engine, self.run.purpose)
        prompt, output = self._tokens()
        room = (plan.pool_tokens - min(prompt, plan.context_tokens)) // max(
            1, min(output, plan.context_tokens)
        )
        return max(1, min(wanted, plan.slots, room))

    def _tokens(self) -> tuple[int, int]:
        """An upper bound of the prompt's tokens, and what the output may take; at most the context together."""
        request = self.request
        context = self.model.context_tokens
        if isinstance(request, ChatRequest):
            bound = _bound_of_chat(request)
        else:
            assert isinstance(request, CompletionRequest)
            bound = _bound(request.prompt) + _bound(request.suffix or "")
        prompt = min(bound, context)
        return prompt, context if request.max_tokens is None else min(request.max_tokens, context)

    def _need(self, request: GenerateRequest) -> Need:
        prompt, output = self._tokens()
        context = self.model.context_tokens
        if request.choices == 1:
            need = Need(1, min(context, prompt + output))
        else:
            need = Need(request.choices, prompt + output * request.choices)
        if prompt + output < context or request.max_tokens is not None:
            engine = self._engine

            async def measure() -> int:
                assert offers(engine, TokenizingEngine)
                exact = await engine.count_tokens(self.run)
                return (
                    min(context, exact + output) if request.choices == 1 else exact + output * request.choices
                )

            need.measure = measure if offers(engine, TokenizingEngine) else None
        return need

    def _saw_first(self) -> None:
        self._pipeline._metrics.time_to_first_token.labels(self.model.id).observe(
            time.monotonic() - self._began
        )


def _bound(prompt: str | list[int]) -> int:
    return len(prompt.encode()) + 2 if isinstance(prompt, str) else len(prompt) + 2


def _bound_of_chat(request: ChatRequest) -> int:
    total = _TOKENS_OF_TEMPLATE
    for message in request.messages:
        content = message.get("content")
        text = content if isinstance(content, str) else str(content or "")
        calls = message.get("tool_calls")
        total += len(text.encode()) + _TOKENS_PER_MESSAGE + (len(str(calls)) if calls else 0)
    tools = request.parameters.get("tools")
    return total + (2 * len(str(tools)) if tools else 0)


def _renumbered(item: T, offset: int) -> T:
    if isinstance(item, (bytes, Progress, Usage)):
        return item
    return replace(item, choice=item.choice + offset)  # type: ignore[type-var,attr-defined]
