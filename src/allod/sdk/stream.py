"""What an engine gives back: an answer as a stream, read once, either as wire frames or as typed events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from allod.sdk.engine import ModelCard


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the prompt has been read, in tokens. `cached` of them were known from an earlier request."""

    total: int
    cached: int
    processed: int
    time_ms: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of one choice. `logprobs` is a list of {id, token, bytes, logprob, top_logprobs}, where asked for."""

    choice: int
    text: str
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what a thinking model says to itself."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: `id` and `name` come with the first piece, `arguments` is JSON text to be joined."""

    choice: int
    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """One choice has ended: stop, length or tool_calls."""

    choice: int
    reason: Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole answer. `timings` are the engine's own measurements, by its own names, in ms and tokens/s."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Usage) -> Usage:
        """Sum of two rounds over the same prompt: the prompt counts once."""
        return Usage(
            max(self.prompt_tokens, other.prompt_tokens),
            self.completion_tokens + other.completion_tokens,
            max(self.cached_tokens, other.cached_tokens),
            other.timings or self.timings,
        )


ChatEvent = Progress | TextDelta | ReasoningDelta | ToolCallDelta | ChoiceFinished | Usage


class ChatStream(Protocol):
    """An answer being made. Read it once: `frames()` or `events()`, under `contextlib.aclosing`.

    Leaving either early stops the engine's work on it.
    """

    @property
    def wire(self) -> Literal["openai.chat"] | None:
        """What `frames()` speaks; None where only `events()` can be read."""
        ...

    @property
    def usage(self) -> Usage | None:
        """Known when the stream has ended in order."""
        ...

    def frames(self) -> AsyncGenerator[bytes, None]:
        """Whole server-sent events as the engine wrote them, one or more at a time, without the final [DONE].

        Raises EngineFailed where the engine reports an error or ends too early.
        """
        ...

    def events(self) -> AsyncGenerator[ChatEvent, None]:
        """The same, typed."""
        ...


class OpenedChat(ChatStream, Protocol):
    """An answer that `context.chat` has opened."""

    @property
    def model(self) -> ModelCard:
        """The model that answers."""
        ...

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """What the stages say beside the answer."""
        ...
