"""The POST routes of /v1, in raw ASGI: parse, open, answer. One short handler for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from allod.gateway import sse
from allod.gateway.dialects import openai_chat, openai_completions, openai_embeddings
from allod.gateway.dialects.fields import Body
from allod.gateway.exchange import Exchange
from allod.kernel.context import Services
from allod.kernel.pipeline import Answer, Pipeline
from allod.sdk.chat import Caller, ChatRequest, Request, Run
from allod.sdk.errors import AllodError, Unauthorized
from allod.sdk.services import KeptAnswer, Threads
from allod.sdk.stream import ChatEvent, Usage

_AT_ONCE = 8  # prompts of one request, so that a long list does not fill the queue alone


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler is handed."""

    exchange: Exchange
    body: dict[str, Any]
    caller: Caller
    pipeline: Pipeline
    services: Services

    def run(self, request: Request, tools: tuple[str, ...] = ()) -> Run:
        """A run for `request`, whose model may use `tools` of this server. Raises Unauthorized: they act for a user."""
        if tools and not self.caller.may("chat"):
            raise Unauthorized(
                "The server's own tools need a key or a session.",
                fix="Send Authorization: Bearer KEY; `allod keys create NAME` makes one.",
                param="tools",
            )
        return Run(request, self.caller, self.exchange.path, tools=tools)

    async def kept(self, request: ChatRequest) -> KeptAnswer:
        """A place for the conversation among the user's threads. Raises Unauthorized, ServiceMissing, BadRequest."""
        if not self.caller.may("conversational"):
            raise Unauthorized(
                "What is kept needs a key with the right `conversational`, or a session.",
                fix="Leave `store` out, or make a key: allod keys create NAME --right chat --right conversational",
                param="store",
            )
        return await self.services.get(Threads).keep(request)


async def chat_completions(call: Call) -> None:
    """The answer to a conversation."""
    request, shape = openai_chat.parse(call.body)
    asked = replace(request, messages=list(request.messages))  # as it was before any stage
    answer = await call.pipeline.open(call.run(request, shape.server_tools))
    kept = await call.kept(asked) if shape.store else None
    allod = openai_chat.extras(request, answer.run.notes)
    if kept is not None:
        allod["thread"] = kept.thread
    if shape.stream and answer.wire is not None and kept is None:
        await sse.send_frames(call.exchange, _passed(answer, allod))
        return
    encoder = openai_chat.Encoder(answer.model.id, shape, allod)
    events = answer.events() if kept is None else _heard(answer, kept)
    if shape.stream:
        await sse.send_frames(call.exchange, _encoded(events, encoder, request.wants_progress))
    else:
        async with aclosing(events):
            whole = await encoder.gather(events, request.choices)
        await call.exchange.reply_json(whole)


async def _heard(answer: Answer, kept: KeptAnswer) -> AsyncGenerator[ChatEvent, None]:
    """The answer, kept as it comes; also what has come of one that is left or breaks."""
    error: AllodError | None = None
    try:
        async with aclosing(answer.events()) as events:
            async for event in events:
                kept.hear(event)
                yield event
    except AllodError as broken:
        error = broken
        raise
    finally:
        await kept.end(answer.model.id, error)


async def _passed(answer: Answer, allod: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """The engine's own frames; only the first with data is touched."""
    async with aclosing(answer.frames()) as frames:
        async for frame in frames:
            marked = openai_chat.with_extras(frame, allod)
            yield marked or frame
            if marked is not None:
                break
        async for frame in frames:
            yield frame


async def _encoded(
    events: AsyncGenerator[ChatEvent, None], encoder: openai_chat.Encoder, wants_progress: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            yield encoder.frames(event, wants_progress=wants_progress)


async def completions(call: Call) -> None:
    """What follows a text, or the log-probabilities of a text itself."""
    requests, shape = openai_completions.parse(call.body)
    answers = [await call.pipeline.open(call.run(request)) for request in requests]
    encoder = openai_completions.Encoder(answers[0].model.id, shape, requests[0].seed)
    if shape.stream:
        await sse.send_frames(call.exchange, _completion_frames(answers, encoder))
        return
    gathered = await _together(
        [partial(_gather, answer, number, encoder) for number, answer in enumerate(answers)]
    )
    choices = [choice for made, _ in gathered for choice in made]
    await call.exchange.reply_json(encoder.whole(choices, [usage for _, usage in gathered]))


async def _gather(
    answer: Answer, number: int, encoder: openai_completions.Encoder
) -> tuple[list[dict[str, Any]], Usage]:
    choices = answer.request.choices
    async with aclosing(answer.events()) as events:
        return await encoder.gather(events, choices, number * choices)


async def _completion_frames(
    answers: list[Answer], encoder: openai_completions.Encoder
) -> AsyncGenerator[bytes, None]:
    usages: list[Usage] = []
    for number, answer in enumerate(answers):
        async with aclosing(answer.events()) as events:
            async for event in events:
                if isinstance(event, Usage):
                    usages.append(event)
                else:
                    yield encoder.frames(event, number * answer.request.choices)
    yield encoder.last(usages)


async def _together(work: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """All results, in order, a few at a time; the first error ends the others and is raised alone."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await each()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(each)) for each in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def embeddings(call: Call) -> None:
    """A vector for each input."""
    request, shape = openai_embeddings.parse(call.body)
    run = call.run(request)
    vectors = await call.pipeline.embed(run)
    assert run.model is not None
    await call.exchange.reply_json(openai_embeddings.encode(run.model.id, shape, vectors))


class TokenizeBody(Body):
    """The body of POST /v1/tokenize."""

    model: str = "default"
    content: str
    add_special: bool = False
    with_pieces: bool = False


async def tokenize(call: Call) -> None:
    """The tokens of a text."""
    body = TokenizeBody.read(call.body)
    body.refuse_others()
    run = call.run(Request(model=body.model))
    engine = await call.pipeline.tokenizer(run)
    assert run.model is not None
    tokens = await engine.tokenize(
        run.model.id, body.content, special=body.add_special, pieces=body.with_pieces
    )
    if body.with_pieces:
        pairs = zip(tokens.ids, tokens.pieces, strict=True)
        listed: list[Any] = [{"id": token, "piece": piece} for token, piece in pairs]
    else:
        listed = list(tokens.ids)
    await call.exchange.reply_json({"tokens": listed, "count": len(listed)})


class DetokenizeBody(Body):
    """The body of POST /v1/detokenize."""

    model: str = "default"
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field()]


async def detokenize(call: Call) -> None:
    """The text of tokens."""
    body = DetokenizeBody.read(call.body)
    body.refuse_others()
    run = call.run(Request(model=body.model))
    engine = await call.pipeline.tokenizer(run)
    assert run.model is not None
    await call.exchange.reply_json({"content": await engine.detokenize(run.model.id, body.tokens)})


async def apply_template(call: Call) -> None:
    """The prompt that the model would read for a conversation, and the number of its tokens."""
    request, _ = openai_chat.parse(call.body)
    run = call.run(request)
    engine = await call.pipeline.tokenizer(run)
    prompt, count = await engine.apply_template(run), await engine.count_tokens(run)
    await call.exchange.reply_json({"prompt": prompt, "tokens": count})


Handler = Callable[[Call], Awaitable[None]]

ROUTES: Mapping[str, tuple[Handler, type[Body]]] = {
    "/v1/chat/completions": (chat_completions, openai_chat.ChatBody),
    "/v1/completions": (completions, openai_completions.CompletionBody),
    "/v1/embeddings": (embeddings, openai_embeddings.EmbeddingBody),
    "/v1/tokenize": (tokenize, TokenizeBody),
    "/v1/detokenize": (detokenize, DetokenizeBody),
    "/v1/apply-template": (apply_template, openai_chat.ChatBody),
}
"""Path -> handler and the model of its body, from which the docs are made."""
