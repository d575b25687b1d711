"""OpenAI's older text completions: https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field

from allod.gateway.dialects.fields import Body, check_stop, limit_of, seed_of
from allod.gateway.dialects.openai_chat import StreamOptions, usage_of
from allod.sdk.chat import CompletionRequest
from allod.sdk.duration import seconds
from allod.sdk.errors import BadRequest
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, Usage

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this route."""


class CompletionBody(Body):
    """The body of POST /v1/completions. llama.cpp's own sampling fields may be added."""

    model: str = "default"
    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    keep_alive: float | str | None = None


_OURS = (
    *("model", "prompt", "suffix", "echo", "logprobs", "stream", "stream_options", "n"),
    *("best_of", "max_tokens", "seed", "keep_alive", "return_progress"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the answer is to be given."""

    stream: bool
    include_usage: bool
    logprobs: int | None


def parse(body: dict[str, Any]) -> tuple[list[CompletionRequest], Shape]:
    """A request for each prompt, and the form of the answer. Raises BadRequest, which names the field."""
    checked = CompletionBody.read(body)
    if checked.best_of is not None and checked.best_of != (checked.n or 1):
        raise BadRequest("best_of can only equal n here.", fix="Leave it out.", param="best_of")
    check_stop(checked.stop)
    limit = 0 if checked.max_tokens == 0 and checked.echo else limit_of(checked.max_tokens, "max_tokens")
    common: dict[str, Any] = {
        "model": checked.model,
        "parameters": {name: value for name, value in body.items() if name not in _OURS},
        "suffix": checked.suffix,
        "echo": bool(checked.echo),
        "logprobs": checked.logprobs,
        "choices": checked.n or 1,
        "max_tokens": _DEFAULT_MAX_TOKENS if checked.max_tokens is None else limit,
        "keep_alive_s": seconds(checked.keep_alive),
        **seed_of(checked.seed),
    }
    options = checked.stream_options
    shape = Shape(bool(checked.stream), bool(options and options.include_usage), checked.logprobs)
    requests = [CompletionRequest(prompt=prompt, **common) for prompt in _prompts(checked.prompt)]
    for request in requests[1:]:
        request.seed = requests[0].seed
    return requests, shape


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise BadRequest("prompt: is an empty list.", param="prompt")
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    prompts = [part for part in prompt if not isinstance(part, int)]
    if [] in prompts:
        raise BadRequest(
            "prompt: holds an empty list.", fix="Send at least one token in each.", param="prompt"
        )
    return prompts


class Encoder:
    """Turns events into chunks, or gathers them into the choices of one answer."""

    def __init__(self, model: str, shape: Shape, seed: int) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(14)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._shape = shape
        self._allod = {"seed": seed}
        self._lengths: dict[int, int] = {}
        self._begun = False

    def frames(self, event: ChatEvent, offset: int) -> bytes:
        """The chunk of one event; `offset` is added to its choice."""
        match event:
            case TextDelta():
                index = event.choice + offset
                logprobs = Logprobs(self._lengths.get(index, 0))
                logprobs.add(event, self._shape.logprobs)
                self._lengths[index] = self._lengths.get(index, 0) + len(event.text)
                said = logprobs.as_dict() if event.logprobs else None
                return self._chunk(
                    [{"index": index, "text": event.text, "logprobs": said, "finish_reason": None}]
                )
            case ChoiceFinished():
                index = event.choice + offset
                return self._chunk(
                    [{"index": index, "text": "", "logprobs": None, "finish_reason": event.reason}]
                )
            case _:
                return b":\n\n"

    def last(self, usages: list[Usage]) -> bytes:
        """The chunk behind all choices; a comment where no usage was asked for."""
        if not self._shape.include_usage:
            return b":\n\n"  # most clients read choices[0] of every chunk
        usage = _total(usages)
        return self._chunk([], usage=usage_of(usage), timings=dict(usage.timings))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if not self._begun:
            self._begun = True
            more["allod"] = self._allod
        return b"data: " + orjson.dumps({**self._head, "choices": choices, **more}) + b"\n\n"

    async def gather(
        self, events: AsyncIterator[ChatEvent], choices: int, offset: int
    ) -> tuple[list[dict[str, Any]], Usage]:
        """The choices of one prompt, and what they took."""
        texts: list[list[str]] = [[] for _ in range(choices)]
        logprobs = [Logprobs(0) for _ in range(choices)]
        reasons = ["stop"] * choices
        usage = Usage()
        async for event in events:
            match event:
                case TextDelta():
                    logprobs[event.choice].add(event, self._shape.logprobs)
                    texts[event.choice].append(event.text)
                case ChoiceFinished():
                    reasons[event.choice] = event.reason
                case Usage():
                    usage = event
        wants = self._shape.logprobs is not None
        made = [
            {
                "index": offset + number,
                "text": "".join(texts[number]),
                "logprobs": logprobs[number].as_dict() if wants else None,
                "finish_reason": reasons[number],
            }
            for number in range(choices)
        ]
        return made, usage

    def whole(self, choices: list[dict[str, Any]], usages: list[Usage]) -> dict[str, Any]:
        """The whole answer."""
        usage = _total(usages)
        return {
            **self._head,
            "choices": choices,
            "usage": usage_of(usage),
            "timings": dict(usage.timings),
            "allod": self._allod,
        }


def _total(usages: list[Usage]) -> Usage:
    """What all prompts took together."""
    return Usage(
        sum(each.prompt_tokens for each in usages),
        sum(each.completion_tokens for each in usages),
        sum(each.cached_tokens for each in usages),
        usages[-1].timings,
    )


class Logprobs:
    """OpenAI's legacy shape: parallel lists. A token that is no whole UTF-8 is written as its bytes."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add(self, event: TextDelta, top: int | None) -> None:
        """Take the tokens of one event; all of them begin where its text does, but for whole ones behind others."""
        offset = self._offset
        for entry in event.logprobs or ():
            label = token_label(entry)
            self._tokens.append(label)
            self._logprobs.append(entry["logprob"])
            best = {token_label(other): other["logprob"] for other in entry["top_logprobs"][:top]}
            self._top.append(None if entry["logprob"] is None else best)
            self._offsets.append(offset)
            if not label.startswith("bytes:"):
                offset += len(label)
        self._offset += len(event.text)

    def as_dict(self) -> dict[str, Any]:
        """The four lists."""
        return {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }


def token_label(entry: dict[str, Any]) -> str:
    """A token's text, or its bytes where they are no whole UTF-8."""
    raw = bytes(entry["bytes"])
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
