"""What is kept of conversations: threads, the messages of their trees, what waits to be sent, runs, projects."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from allod.extensions.conversational.parts import Part

TitleSource = Literal["none", "auto", "manual"]
Role = Literal["user", "assistant"]
Status = Literal["done", "writing", "stopped", "length", "error", "interrupted"]
"""How far a message is: still being written, written in order, or why its text ends where it does."""

OPENING = 120
"""Characters of a thread's beginning that stand for a title while there is none."""

CAN_CONTINUE: tuple[Status, ...] = ("stopped", "length", "error", "interrupted")


def new_id(kind: str) -> str:
    """A fresh id, such as thread_5f0c9a1be24d7783."""
    return f"{kind}_{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """How a thread's prompt is kept within the model's context.

    "trim" leaves the oldest turns out, "summarize" puts a summary in their place, "refuse" asks the user instead.
    `budget_tokens` is None for all that the model offers. With `retrieval`, what was left out is searched for passages
    that fit the question.
    """

    strategy: Literal["trim", "summarize", "refuse"] = "trim"
    budget_tokens: int | None = None
    retrieval: bool = False


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation. Times in seconds since 1970; `active` is the last message of the branch that is shown.

    `model` and `assistant` are empty where the default is meant; `instructions` come behind the assistant's.
    `kept_from` is the message with which the prompt began the last time, so that it can begin there again; `summary`
    stands for what lies before `summary_upto`.
    """

    id: str
    created_at: float
    changed_at: float
    title: str = ""
    title_source: TitleSource = "none"
    project: str | None = None
    tags: tuple[str, ...] = ()
    assistant: str = ""
    instructions: str = ""
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    context: ContextPolicy = ContextPolicy()
    is_favourite: bool = False
    archived_at: float | None = None
    deleted_at: float | None = None
    active: str | None = None
    draft: str = ""
    messages: int = 0
    kept_from: str | None = None
    summary: str = ""
    summary_upto: str | None = None
    is_memory_only: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One node of a thread's tree. `depth` counts from 1; `chosen` is the child that is shown.

    `model`, `parameters`, `seed`, `assistant` and `assistant_version` say exactly what made an answer, `usage` and
    `timings` what it took. `error` is {code, detail, fix} where `status` is "error".
    """

    id: str
    thread: str
    parent: str | None
    depth: int
    role: Role
    parts: tuple[Part, ...]
    created_at: float
    status: Status = "done"
    error: Mapping[str, str] | None = None
    is_pinned: bool = False
    chosen: str | None = None
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    assistant: str = ""
    assistant_version: int | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a tree's drawing needs of a message."""

    id: str
    parent: str | None
    role: Role
    status: Status
    created_at: float


@dataclass(frozen=True, slots=True)
class Queued:
    """A message that is sent once the run before it has ended. `options` are the fields of the run that it begins."""

    id: str
    thread: str
    created_at: float
    parts: tuple[Part, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a thread, which its messages may name by `blob`.

    `key` opens its bytes where they lie; empty where they are in memory only.
    """

    blob: str
    thread: str
    name: str
    media_type: str
    size_bytes: int
    created_at: float
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run after it has ended too. `context` says what the model saw."""

    id: str
    thread: str
    message: str
    created_at: float
    state: str = "queued"
    ended_at: float | None = None
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """Threads that belong together. New ones in it begin with its assistant."""

    id: str
    name: str
    created_at: float
    assistant: str = ""
    threads: int = 0
