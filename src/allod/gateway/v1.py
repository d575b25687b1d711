"""The POST routes of /v1, in raw ASGI: parse, open, answer. One short handler for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from allod.gateway import sse
from allod.gateway.dialects import openai_chat, openai_completions, openai_embeddings
from allod.gateway.dialects.fields import Body
from allod.gateway.exchange import Exchange
from allod.kernel.pipeline import Answer, Pipeline
from allod.sdk.chat import Caller, Request, Run
from allod.sdk.engine import TokenizingEngine, Tokens
from allod.sdk.errors import Unauthorized
from allod.sdk.stream import Usage

_AT_ONCE = 8  # prompts of one request, so that a long list does not fill the queue alone


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler is handed."""

    exchange: Exchange
    body: dict[str, Any]
    caller: Caller
    pipeline: Pipeline

    def run(self, request: Request, tools: tuple[str, ...] = ()) -> Run:
        """A run for `request`, whose model may use `tools` of this server. Raises Unauthorized: they act for a user."""
        if tools and not self.caller.may("chat"):
            raise Unauthorized(
                "The server's own tools need a key or a session.",
                fix="Send Authorization: Bearer KEY; `allod keys create NAME` makes one.",
                param="tools",
            )
        return Run(request, self.caller, self.exchange.path, tools=tools)


async def chat_completions(call: Call) -> None:
    """The answer to a conversation."""
    request, shape = openai_chat.parse(call.body)
    answer = await call.pipeline.open(call.run(request, shape.server_tools))
    allod = openai_chat.extras(request, answer.run.notes)
    if not shape.stream:
        encoder = openai_chat.Encoder(answer.model.id, shape, allod)
        async with aclosing(answer.events()) as events:
            whole = await encoder.gather(events, request.choices)
        await call.exchange.reply_json(whole)
    elif answer.wire is not None:
        await sse.send_frames(call.exchange, _passed(answer, allod))
    else:
        encoder = openai_chat.Encoder(answer.model.id, shape, allod)
        await sse.send_frames(call.exchange, _encoded(answer, encoder, request.wants_progress))


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
    answer: Answer, encoder: openai_chat.Encoder, wants_progress: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(answer.events()) as events:
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

    async def work(engine: TokenizingEngine) -> Tokens:
        assert run.model is not None
        return await engine.tokenize(
            run.model.id, body.content, special=body.add_special, pieces=body.with_pieces
        )

    tokens: Tokens = await call.pipeline.with_lease(run, work)
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

    async def work(engine: TokenizingEngine) -> str:
        assert run.model is not None
        return await engine.detokenize(run.model.id, body.tokens)

    await call.exchange.reply_json({"content": await call.pipeline.with_lease(run, work)})


async def apply_template(call: Call) -> None:
    """The prompt that the model would read for a conversation, and the number of its tokens."""
    request, _ = openai_chat.parse(call.body)
    run = call.run(request)

    async def work(engine: TokenizingEngine) -> tuple[str, int]:
        return await engine.apply_template(run), await engine.count_tokens(run)

    prompt, count = await call.pipeline.with_lease(run, work)
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
