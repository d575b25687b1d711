"""The contract of an extension: one class, every method with a default. Override what you contribute.

An extension enters by the entry-point group `allod.extensions`; Allod's own enter by the same door. Its life:

    found -> its tables are brought up to date -> start -> asked once for what it contributes -> active -> stop

Whatever goes wrong on the way leaves this one out, with the reason and what to do; the others run. `stop` and a new
`start` may happen at any time while the server runs. In-process is no sandbox: install only what you trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from allod.sdk.context import Context
from allod.sdk.engine import Engine
from allod.sdk.events import Subscriptions
from allod.sdk.jobs import JobKind
from allod.sdk.stage import Stage
from allod.sdk.storage import Migration
from allod.sdk.tools import Tool

if TYPE_CHECKING:
    from fastapi import APIRouter

API = 1
"""The major version of this contract. Within a major, only additions."""

RESERVED_NAMES = (
    # Allod's own: routes of the kernel, rights, and the namespaces of its settings and tables
    *"admin backup docs doctor egress events extensions jobs kernel".split(),
    *"keys read server sessions settings tools vault".split(),
    # words of Ollama's API
    *"blobs chat copy create delete embed embeddings generate ps pull push show tags version".split(),
)
"""Names that an extension may not take, because /api/<name> or the tables of that name belong to others."""


class Manifest(BaseModel):
    """Who an extension is, and what it asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=40)
    """Namespace of its settings, tables, secrets, routes and logs. Not one of RESERVED_NAMES."""
    summary: str
    """One sentence, shown to people."""
    api: int = API
    """The major version of this contract that it was written for."""
    needs: tuple[str, ...] = ()
    """Extensions without which it does not start; they start before it and stop after it."""
    after: tuple[str, ...] = ()
    """Extensions that start before it where they are present."""
    egress: tuple[str, ...] = ()
    """Hosts that it may ask for: "api.example.org", "*.example.org", or "user": hosts that the user typed in."""


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
    """What S is: taken from `Extension[MySettings]` by itself."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in getattr(cls, "__orig_bases__", ()):
            named = get_args(base)
            if (
                named
                and isinstance(named[0], type)
                and issubclass(named[0], BaseModel)
                and "Settings" not in vars(cls)
            ):
                cls.Settings = named[0]

    def __init__(self, context: Context[S]) -> None:
        self.context = context

    async def start(self) -> None:
        """Get ready, within 10 s. Its tables are up to date; other extensions' services may be used from now on."""

    async def stop(self) -> None:
        """Give everything back, within 10 s. It may be started again afterwards, as a new object."""

    async def settings_changed(self, before: S) -> None:
        """The user changed its settings; `context.settings` is already the new one. Raising stops nothing."""

    # What it contributes: asked for once, after start. These return objects and do no work.

    def engines(self) -> Sequence[Engine]:
        """What runs models."""
        return ()

    def stages(self) -> Sequence[Stage]:
        """What looks at every run."""
        return ()

    def tools(self) -> Sequence[Tool[Any]]:
        """What a model may ask for."""
        return ()

    def jobs(self) -> Sequence[JobKind[Any]]:
        """What it does that takes long."""
        return ()

    def subscriptions(self) -> Subscriptions:
        """What it wants to hear of."""
        return ()

    def services(self) -> Mapping[type, object]:
        """Interfaces of the sdk, and its own implementation of each."""
        return {}

    def router(self) -> APIRouter | None:
        """HTTP routes, mounted at /api/<name>. Called late: import the web framework here, not above."""
        return None

    # Asked for at other times.

    def migrations(self) -> Sequence[Migration]:
        """The steps of its tables, in order. Asked for before start."""
        return ()

    async def checks(self) -> Sequence[Check]:
        """What this machine has for this extension, for `allod doctor`."""
        return ()
