"""A conversation that no server keeps: its messages are here, and each request to /v1 carries them all."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allod.cli.answer import Answer, Piece, listen
from allod.cli.client import Client
from allod.cli.words import say


@dataclass(slots=True)
class StatelessConversation:
    """Implements Conversation. `messages` are those so far, without the system message, which stands before them."""

    client: Client
    model: str
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    shows_stats: bool = False
    last: Answer | None = None
    saved_to: set[Path] = field(default_factory=set)

    def ask(self, text: str, answer: Answer) -> Generator[Piece]:
        """Ask. A question of whose answer nothing came is dropped."""
        try:
            with closing(listen(self.client, self.question(text), answer)) as pieces:
                yield from pieces
        finally:
            self.add(text, answer)

    def question(self, text: str) -> dict[str, Any]:
        """The request that asks `text` after all that was said."""
        return {
            "model": self.model,
            "messages": [*self._all(), {"role": "user", "content": text}],
            **self.settings,
        }

    def add(self, text: str, answer: Answer) -> None:
        """Keep a question and what came of its answer; neither if nothing came."""
        if not answer.has_begun:
            return
        said: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool_calls:
            said["tool_calls"] = answer.tool_calls
        self.messages += [{"role": "user", "content": text}, said]
        self.last = answer

    def stop(self) -> None:
        """Leave: the server ends an answer that nobody hears."""
        self.client.stop()

    def ending(self, answer: Answer, *, is_stopped: bool) -> list[str]:
        """Whether it was stopped or cut."""
        if is_stopped and not answer.has_begun:
            return [say("(stopped before the answer began; the question is dropped)")]
        told = [say("(stopped)")] if is_stopped else []
        if answer.finish_reason == "length":
            told.append(say("(cut: the answer reached its longest length; /set max_tokens N allows more)"))
        return told

    def reset(self) -> str:
        """Forget the messages; the system message and the settings stay."""
        self.messages.clear()
        self.last = None
        return say("The conversation begins anew.")

    def as_json(self) -> str:
        """Model, settings and messages."""
        whole = {"model": self.model, "settings": self.settings, "messages": self._all()}
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"

    def as_markdown(self) -> str:
        """A heading for each message."""
        names = {"system": say("Instructions"), "user": say("You"), "assistant": self.model}
        parts = [f"## {names[message['role']]}\n\n{message['content']}\n" for message in self._all()]
        return "\n".join(parts)

    def _all(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages
