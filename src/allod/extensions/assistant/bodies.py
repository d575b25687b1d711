"""What comes in over HTTP and what goes out: the shapes of bodies and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.assistant.content import (
    Avatar,
    Content,
    Description,
    Instructions,
    Knowledge,
    MemoryOnly,
    Model,
    Name,
    Starters,
    Tools,
    content_of,
)
from allod.extensions.assistant.parameters import AssistantParameters
from allod.extensions.assistant.presets import preset_in, preset_named
from allod.extensions.assistant.store import Kept

PresetName = Annotated[
    Literal["precise", "balanced", "creative"],
    Field(
        description="Its numbers are copied over those of before, and under the `parameters` of the same body."
    ),
]
Version = Annotated[
    int, Field(ge=1, le=2**31 - 1, description="Refused where this is not the present version any more.")
]


class _Fields(BaseModel):
    """What may be said of an assistant. What is left out, or null, is not said."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name | None = None
    avatar: Avatar | None = None
    description: Description | None = None
    instructions: Instructions | None = None
    model: Model | None = None
    parameters: AssistantParameters | None = None
    tools: Tools | None = None
    knowledge: Knowledge | None = None
    starters: Starters | None = None
    memory_only: MemoryOnly | None = None
    preset: PresetName | None = None

    def of(self, before: Content | None) -> Content:
        """The content that it makes of the one before."""
        known = before.model_dump() if before else {}
        fields = self.model_dump(exclude_none=True, exclude={"preset", "if_version"})
        if self.preset is not None:
            preset = preset_named(self.preset).parameters.model_dump()
            given = self.parameters or AssistantParameters()
            over = {name: getattr(given, name) for name in given.model_fields_set}  # null takes one away
            fields["parameters"] = known.get("parameters", {}) | preset | over
        return content_of(known | fields)


class AssistantChange(_Fields):
    """The body of PATCH: what is left out, or null, stays as it is. Without a `preset`, `parameters` replace all."""

    if_version: Version | None = None


class NewAssistant(_Fields):
    """The body of POST. Only the name is needed."""

    name: Name


class AssistantCopy(BaseModel):
    """The body of POST …/duplicate."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name | None = None


class AssistantRestore(BaseModel):
    """The body of POST …/restore."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[
        int, Field(ge=1, le=2**31 - 1, description="The version that comes back, as a new one.")
    ]
    if_version: Version | None = None


class DefaultAssistant(BaseModel):
    """The body of PUT /default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    assistant: Annotated[str, Field(max_length=200, description="Its id or its name.")]


class AssistantView(BaseModel):
    """An assistant, whole. Times in seconds since 1970; `changed_at`: when this version was made."""

    id: str
    version: int
    latest_version: int
    is_default: bool
    name: str
    avatar: str
    description: str
    instructions: str
    model: str
    parameters: dict[str, Any]
    preset: str
    tools: list[str]
    knowledge: list[str]
    starters: list[str]
    memory_only: bool
    created_at: float
    changed_at: float

    @classmethod
    def of(cls, kept: Kept) -> AssistantView:
        """As it is shown."""
        return cls(
            **kept.content.model_dump(),
            id=kept.id,
            version=kept.version,
            latest_version=kept.latest,
            is_default=kept.is_default,
            preset=preset_in(kept.content.parameters),
            created_at=kept.created_at,
            changed_at=kept.at,
        )


class AssistantList(BaseModel):
    """All assistants, by name, and the id of the default one."""

    default: str
    assistants: list[AssistantView]
