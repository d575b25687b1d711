"""What a chat session needs of a conversation, wherever its messages are kept: stateless.py, thread.py."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

from allod.cli.answer import Answer, Piece
from allod.cli.failures import Failure
from allod.cli.words import say


class Conversation(Protocol):
    """`model` is the name of the one that answers, `system` are instructions for it, `settings` fields of each request.

    `last` is the last answer of which anything came.
    """

    model: str
    system: str
    settings: dict[str, Any]
    shows_stats: bool
    last: Answer | None
    saved_to: set[Path]

    def ask(self, text: str, answer: Answer) -> Generator[Piece]:
        """Ask, and yield the answer's pieces as they come; `answer` is filled meanwhile. Raises Failure."""
        ...

    def stop(self) -> None:
        """End the answer that comes now; may be called by a signal handler."""
        ...

    def ending(self, answer: Answer, *, is_stopped: bool) -> list[str]:
        """What a person is told behind an answer: why it ends where it does, what became of its question."""
        ...

    def reset(self) -> str:
        """Begin anew, and say what became of what was said."""
        ...

    def as_json(self) -> str:
        """All that was said, for a program."""
        ...

    def as_markdown(self) -> str:
        """All that was said, to be read."""
        ...


def save(conversation: Conversation, path: Path) -> None:
    """Write all of it to a file: JSON if its name ends in .json, else Markdown. Raises Failure.

    A file that was not written by this conversation is never overwritten.
    """
    path = path.expanduser().absolute()
    is_json = path.suffix.lower() == ".json"
    text = conversation.as_json() if is_json else conversation.as_markdown()
    try:
        with path.open("w" if path in conversation.saved_to else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise Failure(say("{path} exists already.", path=path), fix=say("Choose another name.")) from error
    except OSError as error:
        raise Failure(say("{path} cannot be written: {reason}.", path=path, reason=error.strerror)) from error
    conversation.saved_to.add(path)
