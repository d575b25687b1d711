"""What can be set for the history of `allod chat`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TerminalSettings(BaseModel):
    """Whether what is typed is kept, and how much of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_history: bool = Field(
        default=True,
        title="Keep what is typed",
        description="Keep what is typed in `allod chat`, encrypted. What was kept before stays until it is deleted.",
    )
    longest_history: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        title="Longest history",
        description="Entries that are kept; older ones are deleted when the next one is added.",
    )
