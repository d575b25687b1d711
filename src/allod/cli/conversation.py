"""What a chat session holds: the messages, and how the next question is asked. In memory only, unless it is saved."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allod.cli.answer import Answer
from allod.cli.failures import Failure
from allod.cli.words import say


@dataclass(slots=True)
class Conversation:
    """The messages so far, without the system message, which stands before them all."""

    model: str
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    shows_stats: bool = False
    last: Answer | None = None
    saved_to: set[Path] = field(default_factory=set)

    def question(self, text: str) -> dict[str, Any]:
        """The request that asks `text` after all that was said."""
        return {
            "model": self.model,
            "messages": [*self._all(), {"role": "user", "content": text}],
            **self.settings,
        }

    def add(self, text: str, answer: Answer) -> bool:
        """Keep a question and what came of its answer; False if nothing came, then neither is kept."""
        if not answer.text and not answer.tool_calls:
            return False
        said: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool_calls:
            said["tool_calls"] = answer.tool_calls
        self.messages += [{"role": "user", "content": text}, said]
        self.last = answer
        return True

    def reset(self) -> None:
        """Forget the messages; the system message and the settings stay."""
        self.messages.clear()
        self.last = None

    def save(self, path: Path) -> None:
        """Write all of it to a file: JSON if its name ends in .json, else Markdown. Raises Failure.

        A file that was not written by this conversation is never overwritten.
        """
        path = path.expanduser().absolute()
        try:
            with path.open("w" if path in self.saved_to else "x", encoding="utf-8") as file:
                file.write(self._as_json() if path.suffix.lower() == ".json" else self._as_markdown())
        except FileExistsError as error:
            raise Failure(
                say("{path} exists already.", path=path), fix=say("Choose another name.")
            ) from error
        except OSError as error:
            raise Failure(
                say("{path} cannot be written: {reason}.", path=path, reason=error.strerror)
            ) from error
        self.saved_to.add(path)

    def _all(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages

    def _as_json(self) -> str:
        whole = {"model": self.model, "settings": self.settings, "messages": self._all()}
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"

    def _as_markdown(self) -> str:
        names = {"system": say("Instructions"), "user": say("You"), "assistant": self.model}
        parts = [f"## {names[message['role']]}\n\n{message['content']}\n" for message in self._all()]
        return "\n".join(parts)
