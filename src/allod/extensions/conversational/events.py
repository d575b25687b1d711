"""What happens to conversations. Ids only: no event holds a title or a text."""

from __future__ import annotations

from dataclasses import dataclass

from allod.sdk.events import Event


@dataclass(frozen=True, slots=True)
class ThreadChanged(Event):
    """A thread was created, changed (its title, its place, its active branch) or deleted."""

    thread: str
    change: str


@dataclass(frozen=True, slots=True)
class MessageChanged(Event):
    """A message was created, changed or deleted, the latter with all that hung on it."""

    thread: str
    message: str
    change: str


@dataclass(frozen=True, slots=True)
class QueueChanged(Event):
    """What waits to be sent in a thread is other than before."""

    thread: str


@dataclass(frozen=True, slots=True)
class ChatRunChanged(Event):
    """A run of a thread has begun, or ended: done, stopped, length, error or interrupted."""

    thread: str
    run: str
    message: str
    state: str


@dataclass(frozen=True, slots=True)
class ProjectChanged(Event):
    """A project was created, changed or deleted."""

    project: str
    change: str
