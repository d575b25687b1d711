"""What a model may ask for in the middle of an answer."""

from __future__ import annotations

from typing import ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel

from allod.sdk.chat import Run

A = TypeVar("A", bound=BaseModel)


class Tool(Generic[A]):
    """Base class of all tools. A model knows it as `<extension>_<name>`."""

    name: ClassVar[str]
    """[a-z][a-z0-9_]*"""
    summary: ClassVar[str]
    """What it does and when to use it, told to the model."""
    arguments: ClassVar[type[BaseModel]]
    """Their titles and descriptions are told to the model too."""
    effect: ClassVar[Literal["reads", "changes"]] = "changes"
    """Whether it only looks. One that changes anything is not run without the user's yes."""
    timeout_s: ClassVar[float] = 60

    async def call(self, arguments: A, run: Run) -> str:
        """Do it, and return what the model is to read. An AllodError's words are told to the model."""
        raise NotImplementedError
