"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from allod.gateway.dialects.fields import Body, check_stop, limit_of, seed_of
from allod.gateway.dialects.openai_messages import MessageBody, Part, check_message, modern
from allod.sdk.chat import ChatRequest
from allod.sdk.duration import seconds
from allod.sdk.errors import BadRequest
from allod.sdk.stream import (
    ChatEvent,
    ChoiceFinished,
    Progress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)


class Function(Part):
    """A function that the model may call. `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Part):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class ServerTool(Part):
    """A tool of this server, which it runs itself when the model calls it. GET /api/tools lists them."""

    type: Literal["allod"]
    name: Annotated[str, Field(max_length=120)]


class ServerTools(Body):
    """The tools of this server among those of a request."""

    tools: list[ServerTool]

    def names(self) -> list[str]:
        """Their names."""
        return [tool.name for tool in self.tools]


class NamedFunction(Part):
    """The name of one function."""

    name: str


class NamedTool(Part):
    """The choice of one tool, by name."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Part):
    """A JSON schema that the answer must fit."""

    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Part):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Part):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None


_Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatBody(Body):
    """The body of POST /v1/chat/completions. llama.cpp's own sampling fields may be added."""

    model: str = "default"
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[
        list[Tool] | None,
        Field(
            description='Besides functions, tools of this server: {"type": "allod", "name": "extension_tool"}.'
        ),
    ] = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    store: Annotated[
        bool | None,
        Field(description="Keep the conversation in a thread, whose id the answer carries (`allod.thread`)."),
    ] = None
    return_progress: bool | None = None
    keep_alive: float | str | None = None


_OURS = (
    *("model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "seed"),
    *("keep_alive", "return_progress", "functions", "function_call", "store"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the answer is to be given."""

    stream: bool
    include_usage: bool
    top_logprobs: int
    is_seed_drawn: bool
    server_tools: tuple[str, ...] = ()
    store: bool = False


def parse(body: dict[str, Any]) -> tuple[ChatRequest, Shape]:
    """The request, and the form of its answer. Raises BadRequest, which names the field."""
    body, server_tools = _without_server_tools(body)
    checked = ChatBody.read(body)
    for number, message in enumerate(checked.messages):
        check_message(message, f"messages[{number}]")
    check_stop(checked.stop)
    for older, newer in (("functions", "tools"), ("function_call", "tool_choice")):
        if body.get(older) and body.get(newer):
            raise BadRequest(f"{older}: is the older name of {newer}.", fix="Send one of them.", param=older)
    if checked.top_logprobs is not None and not checked.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    if checked.response_format is not None and checked.response_format.type == "json_schema":
        wanted = checked.response_format.json_schema
        if wanted is None or wanted.schema_ is None:
            raise BadRequest(
                "response_format.json_schema: type json_schema needs a schema here.",
                param="response_format.json_schema",
            )
    limit_name = "max_completion_tokens" if checked.max_completion_tokens is not None else "max_tokens"
    request = ChatRequest(
        model=checked.model,
        messages=modern(body["messages"]),
        parameters={name: value for name, value in body.items() if name not in _OURS} | _legacy_tools(body),
        choices=checked.n or 1,
        max_tokens=limit_of(getattr(checked, limit_name), limit_name),
        keep_alive_s=seconds(checked.keep_alive),
        wants_progress=bool(checked.return_progress),
        **seed_of(checked.seed),
    )
    options = checked.stream_options
    shape = Shape(
        stream=bool(checked.stream),
        include_usage=bool(options and options.include_usage),
        top_logprobs=checked.top_logprobs or 0,
        is_seed_drawn=not seed_of(checked.seed),
        server_tools=server_tools,
        store=bool(checked.store),
    )
    return request, shape


def _without_server_tools(body: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body with the client's own tools only, and the names of the server's."""
    tools = body.get("tools")
    if not isinstance(tools, list):
        return body, ()
    ours = [tool for tool in tools if isinstance(tool, dict) and tool.get("type") == "allod"]
    if not ours:
        return body, ()
    names = tuple(ServerTools.read({"tools": ours}).names())
    rest = [tool for tool in tools if tool not in ours]
    return {name: value for name, value in body.items() if name != "tools"} | (
        {"tools": rest} if rest else {}
    ), names


def _legacy_tools(body: dict[str, Any]) -> dict[str, Any]:
    """`functions` and `function_call`, the older names, as tools and tool_choice."""
    tools: dict[str, Any] = {}
    if body.get("functions"):
        tools["tools"] = [{"type": "function", "function": function} for function in body["functions"]]
    call = body.get("function_call")
    if isinstance(call, dict):
        tools["tool_choice"] = {"type": "function", "function": {"name": call["name"]}}
    elif call is not None:
        tools["tool_choice"] = call
    return tools


# answers


def extras(request: ChatRequest, notes: list[Any]) -> dict[str, Any]:
    """The `allod` object of an answer: the seed that was used, and what stages noted."""
    return {"seed": request.seed, **({"notes": notes} if notes else {})}


_WITH_ROLE = (
    (b'"delta":{"', b'"delta":{"role":"assistant","'),
    (b'"delta":{}', b'"delta":{"role":"assistant"}'),
)


def with_extras(frames: bytes, allod: dict[str, Any]) -> bytes | None:
    """`frames` with the `allod` object put into the first of them that holds data; None if none does.

    Its delta gets a role if it has none: llama.cpp forgets it where an answer's first token is no whole character.
    """
    start = 0 if frames.startswith(b"data: {") else frames.find(b"\n\ndata: {")
    if start < 0:
        return None
    end = frames.index(b"}\n\n", start)
    head = frames[:end]
    if b'"role"' not in head:  # within texts each quote has a backslash before it
        for old, new in _WITH_ROLE:
            head = head.replace(old, new, 1)
    return head + b',"allod":' + orjson.dumps(allod) + frames[end:]


class Encoder:
    """Turns events into chunks, or gathers them into one whole answer."""

    def __init__(self, model: str, shape: Shape, allod: dict[str, Any]) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(14)}", "created": int(time.time()), "model": model}
        self._shape = shape
        self._allod = allod
        self._begun = 0  # choices, counted from the first

    def frames(self, event: ChatEvent, *, wants_progress: bool) -> bytes:
        """The chunks of one event."""
        match event:
            case Progress():
                if not wants_progress:
                    return b":\n\n"
                seen = {"total": event.total, "cache": event.cached, "processed": event.processed}
                return self._chunk([], prompt_progress=seen | {"time_ms": event.time_ms})
            case TextDelta():
                return self._delta(event.choice, {"content": event.text}, logprobs=self._logprobs(event))
            case ReasoningDelta():
                return self._delta(event.choice, {"reasoning_content": event.text})
            case ToolCallDelta():
                return self._delta(event.choice, {"tool_calls": [_call_delta(event)]})
            case ChoiceFinished():
                return self._delta(event.choice, {}, finish_reason=event.reason)
            case Usage():
                if not self._shape.include_usage:
                    return b":\n\n"  # most clients read choices[0] of every chunk
                return self._chunk([], usage=usage_of(event), timings=dict(event.timings))

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        first = b""
        while self._begun <= index:  # in order, whichever speaks first: OpenAI's own client counts on it
            allod = {} if self._begun else {"allod": self._allod}
            begin = {"index": self._begun, "delta": {"role": "assistant", "content": None}}
            first += self._chunk([{**begin, "finish_reason": None}], **allod)
            self._begun += 1
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return first + self._chunk([choice])

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _logprobs(self, event: TextDelta) -> dict[str, Any] | None:
        if not event.logprobs:
            return None
        top = self._shape.top_logprobs
        content = [
            {**_token(entry), "top_logprobs": [_token(other) for other in entry["top_logprobs"][:top]]}
            for entry in event.logprobs
        ]
        return {"content": content, "refusal": None}

    async def gather(self, events: AsyncIterator[ChatEvent], choices: int) -> dict[str, Any]:
        """The whole answer."""
        made = [_Choice() for _ in range(choices)]
        usage = Usage()
        async for event in events:
            match event:
                case Usage():
                    usage = event
                case TextDelta():
                    made[event.choice].texts.append(event.text)
                    if logprobs := self._logprobs(event):
                        made[event.choice].logprobs += logprobs["content"]
                case ReasoningDelta():
                    made[event.choice].reasoning.append(event.text)
                case ToolCallDelta():
                    made[event.choice].add_call(event)
                case ChoiceFinished():
                    made[event.choice].finish_reason = event.reason
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice.as_dict(index) for index, choice in enumerate(made)],
            "usage": usage_of(usage),
            "timings": dict(usage.timings),
            "allod": self._allod,
        }


class _Choice:
    """One choice as it is gathered."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.finish_reason = "stop"

    def add_call(self, event: ToolCallDelta) -> None:
        call = self.calls.setdefault(
            event.index,
            {"id": event.id, "type": "function", "function": {"name": event.name, "arguments": ""}},
        )
        call["function"]["arguments"] += event.arguments

    def as_dict(self, index: int) -> dict[str, Any]:
        text = "".join(self.texts)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self.calls else None}
        message["refusal"] = None
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [self.calls[number] for number in sorted(self.calls)]
        logprobs = {"content": self.logprobs, "refusal": None} if self.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": event.arguments}
    if event.name is None:
        return {"index": event.index, "function": function}
    return {
        "index": event.index,
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, **function},
    }


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry["bytes"]}


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
