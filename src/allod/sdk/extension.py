"""The contract of an extension: one class, every method with a default. Override what you contribute.

An extension enters by the entry-point group `allod.extensions`; Allod's own enter by the same door.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from allod.sdk.context import Context
from allod.sdk.engine import Engine
from allod.sdk.stage import Stage

if TYPE_CHECKING:
    from fastapi import APIRouter

API = 1
"""The major version of this contract. Within a major, only additions."""

RESERVED_NAMES = (
    # the kernel's own routes
    *("docs", "doctor", "egress", "events", "extensions", "jobs", "keys", "settings"),
    # words of Ollama's API
    *(
        "blobs",
        "chat",
        "copy",
        "create",
        "delete",
        "embed",
        "embeddings",
        "generate",
        "ps",
        "pull",
        "push",
        "show",
    ),
    *("tags", "version"),
)
"""Names that an extension may not take, because /api/<name> belongs to others."""


class Manifest(BaseModel):
    """Who an extension is."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Namespace of its settings, routes and logs."""
    summary: str
    """One sentence, shown to people."""
    api: int = API


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that `allod doctor` looked at, and what to do about it if it is not in order."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


class NoSettings(BaseModel):
    """For an extension that has nothing to set."""


S = TypeVar("S", bound=BaseModel)


class Extension(Generic[S]):
    """Base class of all extensions. `Settings` is a pydantic model with a default for every field."""

    manifest: ClassVar[Manifest]
    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(self, context: Context[S]) -> None:
        self.context = context

    async def start(self) -> None:
        """Get ready, within 10 s. Raising leaves this extension out; the others run."""

    async def stop(self) -> None:
        """Give everything back."""

    def engines(self) -> Sequence[Engine]:
        """What runs models."""
        return ()

    def stages(self) -> Sequence[Stage]:
        """What looks at every run."""
        return ()

    async def checks(self) -> Sequence[Check]:
        """What this machine has for this extension, for `allod doctor`."""
        return ()

    def router(self) -> APIRouter | None:
        """HTTP routes, mounted at /api/<name>. Called late: import the web framework here, not above."""
        return None
