"""What can be set for assistants."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AssistantSettings(BaseModel):
    """Whom the assistants speak with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_name: str = Field(
        default="",
        max_length=80,
        title="Your name",
        description="What {user_name} becomes in the instructions of assistants; where it is empty, “the user”.",
    )
