"""What a message is made of: its parts, and how they are read, searched and handed to a model.

Bytes of images and files are not in them: `blob` says under which id these are kept, and `bytes` how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from allod.sdk.chat import Message
from allod.sdk.errors import BadRequest

Role = Literal["user", "assistant", "system"]


def _whole(text: str) -> str:
    """The text itself. Half a character (a lone surrogate) can be kept nowhere, and written to no stream."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(
            "half_a_character", "it holds half a character (a lone surrogate)"
        ) from None
    return text


def _storable(given: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(given)
    except TypeError:  # half a character, or a number beyond 64 bits
        raise PydanticCustomError("not_json", "it holds what cannot be kept as JSON") from None
    return given


Words = Annotated[str, AfterValidator(_whole)]
"""Text that can be kept."""
Fields = Annotated[dict[str, JsonValue], AfterValidator(_storable)]
"""JSON that can be kept: parameters of a request, say."""
BlobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
MediaType = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*$", max_length=128)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Text(_Part):
    """What was said. Text parts that follow each other are one text."""

    type: Literal["text"] = "text"
    text: Words


class Reasoning(_Part):
    """What a thinking model said to itself. It is shown, but no model is told of it again."""

    type: Literal["reasoning"] = "reasoning"
    text: Words


class Image(_Part):
    """A picture."""

    type: Literal["image"] = "image"
    blob: BlobId
    media_type: MediaType
    name: Words
    bytes: int = Field(ge=0)


class File(_Part):
    """A file of any other kind."""

    type: Literal["file"] = "file"
    blob: BlobId
    media_type: MediaType
    name: Words
    bytes: int = Field(ge=0)


class ToolCall(_Part):
    """What the model asked a tool for. `arguments` is JSON text as the model wrote it, whole or not."""

    type: Literal["tool_call"] = "tool_call"
    id: Words
    name: Words
    arguments: Words


class ToolResult(_Part):
    """What a tool said to the call of the same id."""

    type: Literal["tool_result"] = "tool_result"
    id: Words
    name: Words
    text: Words
    is_error: bool = False


class Citation(_Part):
    """Where something in the text part before it is from: its characters from `start` to `end`."""

    type: Literal["citation"] = "citation"
    source: Words
    title: Words
    quote: Words = ""
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    url: Words = ""


Part = Annotated[
    Text | Reasoning | Image | File | ToolCall | ToolResult | Citation, Field(discriminator="type")
]
PARTS: TypeAdapter[tuple[Part, ...]] = TypeAdapter(
    tuple[Part, ...], config=ConfigDict(hide_input_in_errors=True)
)
"""Reads and writes the parts of a message."""


def read_parts(given: object, field: str = "parts") -> tuple[Part, ...]:
    """The parts that `given` (lists and dicts) describes. Raises BadRequest, which names the place below `field`."""
    try:
        return PARTS.validate_python(given)
    except ValidationError as error:
        place, reason = first_mistake(error, field)
        raise BadRequest(
            f"{place}: {reason}.", fix="See /docs for what parts there are.", param=place
        ) from None


def first_mistake(error: ValidationError, *above: str | int) -> tuple[str, str]:
    """Where below `above` it is, such as parts[0].text, and what is wrong, without a word of what was given."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ""
    steps = (*above, *first["loc"])
    for number, step in enumerate(steps):
        if isinstance(step, int):
            place += f"[{step}]"
        elif number > 1 and steps[number - 2] == "parts":
            continue  # the part's kind, which is no field
        elif re.fullmatch("[a-z_]{1,40}", step):  # any other is a key that somebody made up
            place += f".{step}" if place else step
    known = not first["type"].startswith("union_tag")
    return place, first["msg"] if known else "there is no such kind of part"


def text_of(parts: Sequence[Part]) -> str:
    """The readable text: what was said, without reasoning, tools and files."""
    return "\n\n".join(each for each in _said(parts) if isinstance(each, str))


def searchable(parts: Sequence[Part]) -> str:
    """What a message is found by: its text, what tools said, names of files, titles of what it cites."""
    found = [text_of(parts)]
    for part in parts:
        if isinstance(part, ToolResult):
            found.append(part.text)
        elif isinstance(part, Image | File):
            found.append(part.name)
        elif isinstance(part, Citation):
            found.append(part.title)
    return "\n".join(filter(None, found))


def blobs_of(parts: Sequence[Part]) -> set[str]:
    """The files that are named."""
    return {part.blob for part in parts if isinstance(part, Image | File)}


def as_openai(role: Role, parts: Sequence[Part], images: Mapping[str, str]) -> list[Message]:
    """The messages in which a model is told of this one; none where it holds nothing for a model.

    An answer that used tools becomes several, as they came about: calls, their results, what was said then.
    `images` holds the data: URLs of the blobs that the model is to see; other images and all files are told by name.
    """
    messages: list[Message] = []
    for are_results, group in groupby(parts, key=lambda part: isinstance(part, ToolResult)):
        if are_results:
            results = (part for part in group if isinstance(part, ToolResult))
            messages += [{"role": "tool", "tool_call_id": each.id, "content": each.text} for each in results]
        else:
            messages += _one_message(role, list(group), images)
    return messages


def _one_message(role: Role, parts: Sequence[Part], images: Mapping[str, str]) -> list[Message]:
    content: list[dict[str, Any]] = []
    for each in _said(parts):
        if isinstance(each, Image) and each.blob in images:
            content.append({"type": "image_url", "image_url": {"url": images[each.blob]}})
        else:
            text = each if isinstance(each, str) else f"[{each.type}: {each.name}]"
            content.append({"type": "text", "text": text})
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in parts
        if isinstance(part, ToolCall)
    ]
    if not content and not calls:
        return []
    sees = any(part["type"] == "image_url" for part in content)
    message: Message = {
        "role": role,
        "content": content if sees else "\n\n".join(part["text"] for part in content),
    }
    return [message | {"tool_calls": calls} if calls else message]


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, those of text that follow each other made one. Empty text vanishes."""
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, Text)):
        if not is_text:
            yield from group
        elif text := "".join(part.text for part in group if isinstance(part, Text)):
            yield Text(text=text)


def _said(parts: Sequence[Part]) -> Iterator[str | Image | File]:
    """Texts, images and files in their order."""
    for part in joined(part for part in parts if not isinstance(part, Citation)):
        if isinstance(part, Text):
            yield part.text
        elif isinstance(part, Image | File):
            yield part


def in_turn(messages: Sequence[Message]) -> list[Message]:
    """Questions that nothing was answered to are joined with the next one: many templates take no two in a row."""
    found: list[Message] = []
    for message in messages:
        before = found[-1] if found else None
        if (
            before is not None
            and before["role"] == message["role"] == "user"
            and isinstance(before["content"], str)
            and isinstance(message["content"], str)
        ):
            found[-1] = {**message, "content": f"{before['content']}\n\n{message['content']}"}
        else:
            found.append(message)
    return found
