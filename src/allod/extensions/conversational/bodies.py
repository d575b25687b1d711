"""What bodies of several routes, and imports, have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.records import ContextPolicy

Title = Annotated[Words, Field(max_length=300)]
Tag = Annotated[Words, Field(min_length=1, max_length=60)]
Name = Annotated[Words, Field(max_length=300)]
"""The name or id of a model or an assistant."""


class Context(BaseModel):
    """How the prompt is kept within the model's context."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["trim", "summarize", "refuse"] = Field(
        default="trim",
        description="What happens to the oldest turns: left out, put into a summary, or the user is asked.",
    )
    budget_tokens: int | None = Field(
        default=None, ge=64, description="Tokens of the prompt, null for all that the model offers."
    )
    retrieval: bool = Field(default=False, description="Search what was left out for what fits the question.")

    def policy(self) -> ContextPolicy:
        """As a thread has it."""
        return ContextPolicy(**self.model_dump())
