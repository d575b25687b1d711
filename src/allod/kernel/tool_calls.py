"""The calls of the server's tools that a model makes in one round, gathered from the pieces in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allod.sdk.chat import Message
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, ToolCallDelta


class ToolCalls:
    """Keeps the pieces of calls of `ours`; all else is the client's."""

    def __init__(self, ours: Sequence[str]) -> None:
        self._ours = frozenset(ours)
        self._calls: dict[int, dict[str, Any]] = {}
        self._text: list[str] = []
        self._has_foreign = False

    @property
    def are_ours(self) -> bool:
        """Whether there are calls, and all of them of the server's tools: only then the server goes on by itself."""
        return bool(self._calls) and not self._has_foreign

    def keep(self, event: ChatEvent) -> bool:
        """Whether `event` was kept here, and so is not for the client."""
        match event:
            case ToolCallDelta():
                return self._keep_piece(event)
            case TextDelta():
                self._text.append(event.text)
                return False
            case ChoiceFinished():
                return self.are_ours
            case _:
                return False

    def _keep_piece(self, piece: ToolCallDelta) -> bool:
        if piece.name is not None:
            if piece.name not in self._ours:
                self._has_foreign = True
                return False
            self._calls[piece.index] = {
                "id": piece.id or f"call_{piece.index}",
                "name": piece.name,
                "arguments": "",
            }
        if piece.index not in self._calls:
            return False
        self._calls[piece.index]["arguments"] += piece.arguments
        return True

    def complete(self) -> list[dict[str, Any]]:
        """The calls in OpenAI's form."""
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for _, call in sorted(self._calls.items())
        ]

    def message(self) -> Message:
        """What the model said in this round, calls included."""
        return {"role": "assistant", "content": "".join(self._text), "tool_calls": self.complete()}
