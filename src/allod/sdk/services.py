"""What extensions offer one another: each service is an interface here, found by `context.service(kind)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from allod.sdk.chat import ChatRequest
from allod.sdk.errors import AllodError
from allod.sdk.stream import ChatEvent


@dataclass(frozen=True, slots=True)
class Assistant:
    """One version of an assistant, as a chat uses it.

    `instructions` are ready to be read by a model: their variables are filled in, as of this moment. `model` is empty
    where the chat chooses; `parameters` are fields of a request in the form of /v1/chat/completions, such as
    temperature, and may hold `seed` and `max_tokens`. A chat with a `memory_only` one leaves no trace.
    """

    id: str
    version: int
    name: str
    instructions: str = ""
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    memory_only: bool = False


@runtime_checkable
class Assistants(Protocol):
    """The user's assistants."""

    async def get(self, assistant: str | None = None, version: int | None = None) -> Assistant:
        """An assistant by its id or name, the default one where none is named; as it is now, or was in `version`.

        Raises NotFound.
        """
        ...


class KeptAnswer(Protocol):
    """An answer that is kept in a thread while it is given by somebody else."""

    @property
    def thread(self) -> str:
        """The thread's id."""
        ...

    def hear(self, event: ChatEvent) -> None:
        """A piece of it has come."""
        ...

    async def end(self, model: str, error: AllodError | None = None) -> None:
        """It has ended: in order, by an error, or early, where no ChoiceFinished was heard."""
        ...


@runtime_checkable
class Threads(Protocol):
    """The user's conversations."""

    async def keep(self, request: ChatRequest) -> KeptAnswer:
        """Keep a conversation that was sent as a whole in a thread of its own, and then its answer."""
        ...
