"""What bodies of several routes, and imports, have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from allod.extensions.conversational.parts import Fields, Words
from allod.extensions.conversational.records import ContextPolicy
from allod.sdk.chat import MAX_SEED

Title = Annotated[Words, Field(max_length=300)]
Tag = Annotated[Words, Field(min_length=1, max_length=60)]
Name = Annotated[Words, Field(max_length=300)]
"""The name or id of a model or an assistant."""


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The two fields that are not the engine's to judge, because the server itself uses them."""
    for name, least, most in (("seed", 0, MAX_SEED), ("max_tokens", 1, 1 << 31)):
        value = given.get(name)
        if value is not None and (type(value) is not int or not least <= value <= most):
            said = {"name": name, "least": least, "most": most}
            raise PydanticCustomError("parameter", "{name} is a whole number from {least} to {most}", said)
    return given


Parameters = Annotated[Fields, AfterValidator(_checked)]
"""Fields of each request, such as temperature; the engine decides whether it can honour them."""


class Context(BaseModel):
    """How the prompt is kept within the model's context."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["trim", "summarize", "refuse"] = Field(
        default="trim",
        description="What happens to the oldest turns: left out, put into a summary, or the user is asked.",
    )
    budget_tokens: int | None = Field(
        default=None,
        ge=64,
        le=100_000_000,
        description="Tokens of the prompt, null for all that the model offers.",
    )
    retrieval: bool = Field(default=False, description="Search what was left out for what fits the question.")

    def policy(self) -> ContextPolicy:
        """As a thread has it."""
        return ContextPolicy(**self.model_dump())
