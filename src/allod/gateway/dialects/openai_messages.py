"""The messages of OpenAI's chats: what each must have, and older forms in the words of today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from allod.sdk.errors import BadRequest


class Part(BaseModel):
    """A piece of a body: known fields are checked, strictly; unknown ones are kept."""

    model_config = ConfigDict(strict=True, extra="allow")


class FunctionCall(Part):
    """What an assistant called. `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(Part):
    """A call in an assistant's message."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class ContentPart(Part):
    """A piece of a message."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: dict[str, Any] | None = None


class MessageBody(Part):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None


def check_message(message: MessageBody, place: str) -> None:
    """Raise BadRequest, which names the field, for a message that lacks what its role needs."""
    others = message.tool_calls or message.function_call or message.refusal
    if message.content in (None, []) and not (message.role == "assistant" and others):
        raise BadRequest(
            f"{place}.content: a message of the role {message.role!r} needs content.",
            param=f"{place}.content",
        )
    if message.role == "tool" and message.tool_call_id is None:
        raise BadRequest(f"{place}.tool_call_id: a tool message needs it.", param=f"{place}.tool_call_id")
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            where = f"{place}.content[{number}]"
            for kind in ("text", "refusal"):
                if part.type == kind and getattr(part, kind) is None:
                    raise BadRequest(f"{where}.{kind}: this part needs it.", param=f"{where}.{kind}")
            if part.type == "image_url":
                _check_image(part, where)


def _check_image(part: ContentPart, where: str) -> None:
    url = (part.image_url or {}).get("url")
    if not isinstance(url, str):
        raise BadRequest(f"{where}.image_url.url: must be text.", param=f"{where}.image_url.url")
    if not url.startswith("data:image/"):
        raise BadRequest(
            f"{where}.image_url.url: Allod fetches no images, from the network or from files.",
            fix="Send the image itself: data:image/png;base64,…",
            param=f"{where}.image_url.url",
        )


def modern(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as an engine takes them: refusals as text, calls of functions as calls of tools.

    An empty last answer is left out, for engines continue the last one from where it ends: here, before it has begun.
    """
    made: list[dict[str, Any]] = []
    call_id = ""
    for number, message in enumerate(messages):
        if message.get("function_call"):
            call_id = f"call_{number}"
            message = {**message, "tool_calls": [_as_tool_call(call_id, message["function_call"])]}
            del message["function_call"]
        elif message["role"] == "function":
            message = {**message, "role": "tool", "tool_call_id": call_id}
        made.append(_with_refusals_as_text(message))
    if len(made) > 1 and _is_empty_answer(made[-1]):
        made.pop()
    return made


def _as_tool_call(call_id: str, called: dict[str, Any]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": called}


def _with_refusals_as_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    refused = message.get("refusal")
    if isinstance(content, list) and any(part["type"] == "refusal" for part in content):
        parts = [
            {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part
            for part in content
        ]
        return {**message, "content": parts}
    if refused is None or content:
        return message
    return {**{name: value for name, value in message.items() if name != "refusal"}, "content": refused}


def _is_empty_answer(message: dict[str, Any]) -> bool:
    said = {name for name, value in message.items() if value and name not in ("role", "name")}
    return message["role"] == "assistant" and not said
