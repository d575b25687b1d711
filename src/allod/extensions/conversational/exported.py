"""Threads as they leave the house and come back: the shapes that every export is made from. They hold no machinery.

Names stand for projects and assistants, so that a thread can be read elsewhere. Ids matter within one thread only.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from allod.extensions.conversational.parts import BlobId, Fields, Part, Words

SCHEMA = 1
"""Counts up when a reader of the one before could not read it."""


def _decoded(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("base64", "it is not base64") from None


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda given: base64.b64encode(given).decode(), when_used="json"),
]
"""Bytes here, base64 (RFC 4648 section 4) in the file."""
Time = Annotated[FiniteFloat, Field(ge=-62_135_596_800, lt=253_402_300_800)]
"""Seconds since 1970, in the years 1 to 9999."""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ExportedMessage(_Shape):
    """One message of the tree. `parent` is an id of the same thread, None for one that begins it; `chosen` is the one
    of its children that is shown.

    `error` is {code, detail, fix} where the status is "error". From `model` on: what made an answer, and what it took.
    """

    id: Words
    parent: Words | None
    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]
    status: Literal["done", "stopped", "length", "error", "interrupted"] = "done"
    error: dict[Words, Words] | None = None
    created_at: Time
    is_pinned: bool = False
    chosen: Words | None = None
    model: Words = ""
    parameters: Fields = {}
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    assistant: Words = ""
    assistant_version: int | None = None
    usage: dict[Words, Annotated[int, Field(ge=0, lt=2**53)]] = {}
    timings: dict[Words, FiniteFloat] = {}


class ExportedThread(_Shape):
    """One thread with all its branches. `active` is the last message of the branch that is shown.

    `context` is how its prompt is kept within the model's context. `attachments` are the bytes of its parts' blobs.
    Messages stand in any order, but always form trees: a parent is there, and no message leads to itself.
    """

    title: Words
    title_source: Literal["none", "auto", "manual"] = "none"
    created_at: Time
    changed_at: Time
    project: Words | None = None
    tags: tuple[Words, ...] = ()
    assistant: Words = ""
    instructions: Words = ""
    model: Words = ""
    parameters: Fields = {}
    is_favourite: bool = False
    is_archived: bool = False
    context: Fields = {}
    draft: Words = ""
    summary: Words = ""
    summary_upto: Words | None = None
    active: Words | None
    messages: tuple[ExportedMessage, ...]
    attachments: dict[BlobId, Base64] = {}

    @model_validator(mode="after")
    def _is_a_tree(self) -> ExportedThread:
        parents: dict[str, str | None] = {}
        for number, message in enumerate(self.messages):
            if message.id in parents:
                raise _wrong(number, "id", "an earlier message has the same")
            parents[message.id] = message.parent
        if self.active is not None and self.active not in parents:
            raise PydanticCustomError("tree", "`active` names no message of the thread")
        for number, message in enumerate(self.messages):
            if message.chosen is not None and parents.get(message.chosen, "") != message.id:
                raise _wrong(number, "chosen", "it is no child of the message")
        sound: set[str | None] = {None}
        for number, message in enumerate(self.messages):
            walked: set[str] = set()
            at: str | None = message.id
            while at is not None and at not in sound:
                if at in walked:
                    raise _wrong(number, "parent", "the message leads back to itself")
                if at not in parents:
                    raise _wrong(number, "parent", "there is no such message in the thread")
                walked.add(at)
                at = parents[at]
            sound |= walked
        return self

    def active_path(self) -> list[ExportedMessage]:
        """The messages of the branch that is shown, oldest first."""
        by_id = {message.id: message for message in self.messages}
        path = []
        at = self.active
        while at is not None:
            path.append(by_id[at])
            at = by_id[at].parent
        return path[::-1]


# words that the exports to be read share

SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}
ENDS = {
    "stopped": "Stopped by the user.",
    "length": "Cut off: the limit of tokens was reached.",
    "error": "Ended by an error.",
    "interrupted": "Interrupted.",
}
"""Why a message ends where it does, by its status; nothing for one that is done."""


def moment(at: float) -> str:
    """A time to be read, such as 2026-11-24 19:14 UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _wrong(number: int, field: str, reason: str) -> PydanticCustomError:
    said = {"number": number, "field": field, "reason": reason}
    return PydanticCustomError("tree", "messages[{number}].{field}: {reason}", said)
