"""What can be set for conversations."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ConversationalSettings(BaseModel):
    """Titles, the trash, how long what is in memory only stays there, and how large a file may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    titles: bool = Field(
        default=True,
        title="Find titles",
        description="Let the model of a chat find its title while nothing else is done. Yours is never changed.",
    )
    trash_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        title="Days in the trash",
        description="After so many days a deleted thread is gone for good. 0: only when you empty the trash.",
    )
    memory_only_minutes: int = Field(
        default=60,
        ge=1,
        le=10_080,
        title="Memory-only threads end after",
        description="Minutes without a word after which a thread in memory only is gone.",
    )
    attachment_mib: int = Field(
        default=64,
        ge=1,
        le=1024,
        title="Largest file",
        description="In MiB. The server's largest request is a limit too: raise both.",
    )
