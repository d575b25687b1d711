"""allod-echo: an engine that plays a part, written against the public contract only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from allod.sdk.chat import ChatRequest, Run, text_of
from allod.sdk.engine import Engine, ModelCard, ModelId
from allod.sdk.errors import BadRequest
from allod.sdk.extension import Extension, Manifest
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, ToolCallDelta, Usage


class EchoStream:
    """`call NAME {ARGUMENTS}` calls a tool; anything else is said back, with what the system and tools said."""

    wire: Literal["openai.chat"] | None = None

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self.usage: Usage | None = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError("only events can be read")
        yield b""

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        heard = self._request.last_user_text()
        results = [text_of(message) for message in self._request.messages if message["role"] == "tool"]
        tools = [tool["function"]["name"] for tool in self._request.parameters.get("tools") or ()]
        word, _, rest = heard.partition(" ")
        name, _, arguments = rest.partition(" ")
        if word == "call" and (not results or "again" in heard) and tools:
            yield ToolCallDelta(0, 0, f"call_{len(results)}", name, "")
            for letter in arguments:
                yield ToolCallDelta(0, 0, None, None, letter)
            yield ChoiceFinished(0, "tool_calls")
        else:
            system = [text_of(m) for m in self._request.messages if m["role"] == "system"]
            yield TextDelta(0, json.dumps({"heard": heard, "system": system, "results": results}))
            yield ChoiceFinished(0, "stop")
        self.usage = Usage(len(heard), 1)
        yield self.usage


class EchoEngine:
    name = "echo"

    async def models(self) -> Sequence[ModelCard]:
        return [ModelCard(ModelId("echo"), self.name, "Echo", 4096, 0, capabilities=("chat", "tools"))]

    def chat(self, run: Run) -> EchoStream:
        if not isinstance(run.request, ChatRequest):
            raise BadRequest("Echo only chats.", param="model")
        return EchoStream(run.request)


class Echo(Extension[Any]):
    manifest = Manifest(name="echo", summary="Says back what it hears.")

    def engines(self) -> Sequence[Engine]:
        return [EchoEngine()]
