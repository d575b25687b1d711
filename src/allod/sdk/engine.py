"""What runs models. An engine lists models and answers runs; one that holds memory can also plan, load and unload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NewType, Protocol, runtime_checkable

from allod.sdk.chat import Purpose, Run
from allod.sdk.stream import ChatStream

ModelId = NewType("ModelId", str)
DeviceId = NewType("DeviceId", str)
CPU = DeviceId("cpu")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model without loading it. Sizes in bytes, context in tokens."""

    id: ModelId
    engine: str
    name: str
    context_tokens: int
    size_bytes: int
    quantization: str = ""
    architecture: str = ""
    parameters: int = 0
    capabilities: tuple[str, ...] = ("chat", "completion")
    is_local: bool = True
    """Whether it runs on this machine; to one that does not, the words of a run are sent."""

    problem: str = ""
    """Why it cannot be used (a damaged file, say); empty where it can."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What loading a model will take. A request may use `context_tokens`; all that run at once share `pool_tokens`."""

    model: ModelId
    bytes_by_device: Mapping[DeviceId, int]
    """What it takes where nothing else is loaded."""
    context_tokens: int
    pool_tokens: int
    slots: int
    reasons: tuple[str, ...] = ()
    purpose: Purpose = "chat"
    shared_bytes: Mapping[DeviceId, int] = field(default_factory=dict)
    """The part of `bytes_by_device` that is there once, however many workers of the model there are: mapped weights."""

    @property
    def total_bytes(self) -> int:
        """Bytes on all devices together."""
        return sum(self.bytes_by_device.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Embedding:
    """One input's vector and the number of tokens that it was made of."""

    vector: Sequence[float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and, where they were asked for, the piece of text of each (bytes where it is no valid UTF-8)."""

    ids: list[int]
    pieces: list[str | list[int]] = field(default_factory=list)


@runtime_checkable
class Engine(Protocol):
    """Runs models. `chat` also takes CompletionRequests."""

    name: str

    async def models(self) -> Sequence[ModelCard]:
        """All models that this engine could run now, loaded or not."""
        ...

    def chat(self, run: Run) -> ChatStream:
        """Begin an answer; nothing happens until the stream is read. The caller holds a lease on the model.

        Raises UnsupportedParameter where the model cannot honour a field of the request.
        """
        ...


@runtime_checkable
class EmbeddingEngine(Protocol):
    """An engine that also makes vectors."""

    async def embed(self, run: Run) -> Sequence[Embedding]:
        """A vector for each input of the run's EmbeddingRequest, in order."""
        ...


@runtime_checkable
class TokenizingEngine(Protocol):
    """An engine that shows what a model really sees, whether it is loaded or not; nothing is loaded for it."""

    async def count_tokens(self, run: Run) -> int:
        """Tokens of the prompt that the model would read for this run; exact. Its words go to workers of its purpose.

        Raises BadRequest for what cannot be counted while the model is not loaded, such as images.
        """
        ...

    async def tokenize(self, model: ModelId, text: str, *, special: bool, pieces: bool) -> Tokens:
        """Token ids of a text. `special`: with the marks that a prompt begins with."""
        ...

    async def detokenize(self, model: ModelId, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...

    async def apply_template(self, run: Run) -> str:
        """The prompt, as text, that the model's chat template makes of the run's messages. Raises as count_tokens."""
        ...


@runtime_checkable
class LoadableEngine(Engine, Protocol):
    """An engine whose models take memory, and so are loaded and unloaded by the scheduler alone.

    A model may be loaded once for each purpose. A run goes to the worker of its own purpose and to no other.
    """

    async def plan(self, model: ModelId, free_bytes: Mapping[DeviceId, int], purpose: Purpose) -> LoadPlan:
        """What loading for this purpose would take, where so much is free. Looks, but changes nothing."""
        ...

    async def load(self, plan: LoadPlan, gone: Callable[[str], None]) -> None:
        """Load a model for the plan's purpose. `gone(reason)` is called once if it later ends by itself.

        Raises LoadFailed.
        """
        ...

    async def unload(self, model: ModelId, purpose: Purpose) -> None:
        """Give all its memory back, with every word in it; nothing happens if it is not loaded."""
        ...

    def memory_bytes(self, model: ModelId, purpose: Purpose) -> int:
        """What a loaded model really takes now, what it shares included; 0 if it is not loaded."""
        ...
