"""What an assistant is made of: one version of it, whole, and which texts fit where."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from allod.extensions.assistant.parameters import AssistantParameters
from allod.sdk.errors import BadRequest

LONGEST_NAME = 80
_ID = re.compile(r"assistant_[0-9a-z]+")


def key_of(name: str) -> str:
    """What two names must not share: they may differ in more than case, width and blanks."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise PydanticCustomError("control_character", "Input should be one line, without control characters")
    return text


def _fit_name(name: str) -> str:
    """A name by which it can be called in a command and in an address."""
    if "/" in name or not name.strip("."):
        raise PydanticCustomError("name", "a name has no '/', and is not made of dots")
    if _ID.fullmatch(key_of(name)):
        raise PydanticCustomError("name", "a name does not look like an id")
    return name


def _once_each(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


_Trimmed = StringConstraints(strip_whitespace=True)
_Line = AfterValidator(_one_line)

Name = Annotated[
    str,
    _Trimmed,
    Field(min_length=1, max_length=LONGEST_NAME, description="Its own, whatever the case of its letters."),
    _Line,
    AfterValidator(_fit_name),
]
Avatar = Annotated[str, _Trimmed, Field(max_length=16, description="An emoji, or a few letters."), _Line]
Description = Annotated[str, _Trimmed, Field(max_length=1000, description="What it is for.")]
Instructions = Annotated[
    str,
    Field(
        max_length=100_000,
        description="What the model reads first; {user_name}, {date}, {time} are filled in.",
    ),
]
Model = Annotated[
    str,
    _Trimmed,
    Field(max_length=200, description="The model that answers. Empty: the chat chooses."),
    _Line,
]
Tools = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,120}$")]],
    Field(max_length=200, description="Names of tools (`extension_tool`) that the model may use."),
    AfterValidator(_once_each),
]
Knowledge = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=120), _Line]],
    Field(max_length=200, description="Ids of knowledge that it may look up."),
    AfterValidator(_once_each),
]
Starters = Annotated[
    list[Annotated[str, _Trimmed, Field(min_length=1, max_length=500)]],
    Field(max_length=12, description="Short texts with which a chat may begin."),
]
MemoryOnly = Annotated[bool, Field(description="Its chats leave no trace.")]


class Content(BaseModel):
    """All that a version of an assistant holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    avatar: Avatar = ""
    description: Description = ""
    instructions: Instructions = ""
    model: Model = ""
    parameters: AssistantParameters = AssistantParameters()
    tools: Tools = []
    knowledge: Knowledge = []
    starters: Starters = []
    memory_only: MemoryOnly = False

    def renamed(self, name: str) -> Content:
        """The same under another name, which is known to fit."""
        return self.model_copy(update={"name": name})


def content_of(fields: Mapping[str, Any], where: str = "") -> Content:
    """What was read from somewhere, checked. Raises BadRequest, which names the field, behind `where`."""
    try:
        return Content.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        param = ".".join(
            [*([where] if where else []), *(ascii(part)[:60].strip("'") for part in first["loc"])]
        )
        raise BadRequest(f"{param}: {first['msg']}.", fix="Correct it.", param=param) from None
