"""An answer while it is being written: the events of a stream, gathered into the parts of a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from allod.extensions.conversational.parts import Part, Reasoning, Text, ToolCall
from allod.extensions.conversational.records import Status
from allod.sdk.stream import ChatEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage

ENDS: Mapping[str, Status] = {"stop": "done", "length": "length", "tool_calls": "done"}
"""What a model's reason to end makes of a message."""


class AnswerParts:
    """Parts that grow at their end. Begins with those that are there already where an answer is continued."""

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self._ended = list(parts)
        self._kind: type[Text | Reasoning] | None = None
        self._pieces: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        if self._ended and isinstance(last := self._ended[-1], (Text, Reasoning)):
            self._kind, self._pieces = type(last), [last.text]
            self._ended.pop()

    def add(self, event: ChatEvent) -> None:
        """Take in an event; those that bring no content change nothing."""
        match event:
            case TextDelta(text=text):
                self._add_text(Text, text)
            case ReasoningDelta(text=text):
                self._add_text(Reasoning, text)
            case ToolCallDelta():
                self._end_text()
                call = self._calls.setdefault(event.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = event.id or call["id"]
                call["name"] = event.name or call["name"]
                call["arguments"] += event.arguments
            case _:
                pass

    def _add_text(self, kind: type[Text | Reasoning], text: str) -> None:
        if self._kind is not kind:
            self._end_text()
            self._kind = kind
        self._pieces.append(text)

    def _end_text(self) -> None:
        if self._kind is not None and (text := "".join(self._pieces)):
            self._ended.append(self._kind(text=text))
        self._kind, self._pieces = None, []

    @property
    def parts(self) -> tuple[Part, ...]:
        """All so far."""
        return tuple(self._so_far())

    def _so_far(self) -> Iterator[Part]:
        yield from self._ended
        if self._kind is not None and self._pieces:
            self._pieces = ["".join(self._pieces)]
            yield self._kind(text=self._pieces[0])
        for number, call in sorted(self._calls.items()):
            yield ToolCall(id=call["id"] or f"call_{number}", name=call["name"], arguments=call["arguments"])


def counted(usage: Usage, before: Mapping[str, int]) -> dict[str, int]:
    """The usage of a message, `before` being that of the part that is gone on with."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": before.get("completion_tokens", 0) + usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }
