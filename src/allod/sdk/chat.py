"""What a caller asks for: the requests that travel down the pipeline, and the `Run` that carries one.

Requests keep the field names of OpenAI's API, because that is what most engines speak; a dialect turns other forms
into these. Fields that steer Allod itself (model, seed, choices, keep-alive) are attributes; all else stays in
`parameters`, unknown fields too: the engine that runs the request decides whether it can honour them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from allod.sdk.engine import ModelCard

Message = dict[str, Any]
"""One message in OpenAI's form: role, content, and for tools tool_calls or tool_call_id."""

Purpose = Literal["chat", "private"]
"""Which worker of a model a run is for: the one that all share, or one whose words end with it."""

MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` is None for a caller on this machine without a key or a session.

    `rights` are "read", "chat", "admin" (all) and names of extensions.
    """

    key_id: str | None = None
    rights: frozenset[str] = frozenset()

    def may(self, *rights: str) -> bool:
        """Whether one of these rights is among its own."""
        return "admin" in self.rights or not self.rights.isdisjoint(rights)


@dataclass(slots=True, kw_only=True)
class Request:
    """What all requests share. `model` is as the caller wrote it; `keep_alive_s` is None (default), 0 or a time."""

    model: str
    parameters: dict[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None


@dataclass(slots=True, kw_only=True)
class GenerateRequest(Request):
    """A request for text. Choice i is sampled with `seed + i`, so one seed gives different, repeatable choices.

    `max_tokens` is None where the caller set no limit: the answer may then fill the context.
    """

    choices: int = 1
    seed: int = field(default_factory=lambda: secrets.randbelow(MAX_SEED))
    max_tokens: int | None = None
    wants_progress: bool = False


@dataclass(slots=True, kw_only=True)
class ChatRequest(GenerateRequest):
    """An answer to a conversation. A last assistant message is continued."""

    messages: list[Message]

    def last_user_text(self) -> str:
        """The text of the last user message, without its images and files; empty if there is none."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return text_of(message)
        return ""

    def add_system_text(self, text: str) -> None:
        """Put `text` behind the system message, or before all messages where there is none."""
        if self.messages and self.messages[0]["role"] in ("system", "developer"):
            first = self.messages[0]
            self.messages[0] = {**first, "content": f"{text_of(first)}\n\n{text}"}
        else:
            self.messages.insert(0, {"role": "system", "content": text})


@dataclass(slots=True, kw_only=True)
class CompletionRequest(GenerateRequest):
    """A raw continuation of one prompt (text or token ids). With `suffix`, the text between the two."""

    prompt: str | list[int]
    suffix: str | None = None
    echo: bool = False
    logprobs: int | None = None


@dataclass(slots=True, kw_only=True)
class EmbeddingRequest(Request):
    """A vector for each input (text or token ids)."""

    inputs: list[str | list[int]]


@dataclass(slots=True)
class Run:
    """One request on its way: who asks, what, which model answers, and what the stages noted on the way.

    An extension's own state stays in its stage; this is no drawer for it.
    """

    request: Request
    caller: Caller
    route: str
    model: ModelCard | None = None
    purpose: Purpose = "chat"
    tools: tuple[str, ...] = ()
    """Tools (`extension_tool`) that the model may use and the server runs."""
    notes: list[Mapping[str, Any]] = field(default_factory=list)

    def note(self, stage: str, **facts: Any) -> None:
        """Say beside the answer what a stage did."""
        self.notes.append({"stage": stage, **facts})


def text_of(message: Message) -> str:
    """The text of a message: a string content as it is, content parts of type text joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""
