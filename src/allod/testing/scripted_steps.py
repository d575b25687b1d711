"""What a scripted worker plays: steps in JSON, turned into the bytes and the waits of one answer.

A step is a piece of text, or an object with one of these keys:
    "text", "reasoning"     a piece of the answer
    "call"                  a tool call: {"name": …, "arguments": …}, its arguments in two pieces
    "progress"              [processed, total]: so much of the prompt has been read
    "error"                 an error frame with this object, after which nothing comes
    "raw"                   these characters as they are, whatever they break
    "wait_s"                nothing for so long; what comes before and after is sent apart, even for 0
    "repeat", "steps"       the steps, so many times
    "finish"                the reason in the last frame; "stop" is added where no step ends the answer
    "status"                no stream at all: this status, and the JSON of "body"
    "do"                    end: the body is over, without [DONE]; cut: the connection is; hang: silence for ever, but
                            /health answers; deaf: the whole process stands still; die: it is gone
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

Step = str | Mapping[str, Any]
Action = bytes | float | str
"""Bytes are sent, seconds are waited, words are done."""
Form = Literal["chat", "completion"]

_CREATED = 1_700_000_000
_ROLE = {"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}
_ENDS = ("end", "cut", "hang", "deaf", "die")


class Answer:
    """One answer in the wire form of one route of llama-server. `prompt_tokens` is for its usage."""

    def __init__(self, form: Form, model: str, prompt_tokens: int, *, include_usage: bool = False) -> None:
        self._form = form
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._include_usage = include_usage
        self._pieces = 0
        self._has_begun = False
        self._has_ended = False

    def actions(self, steps: Sequence[Step]) -> list[Action]:
        """All that is to be done, bytes that follow one another joined."""
        made = [action for step in steps for action in self._play(step)]
        if not self._has_ended:
            made += self._last("stop")
        joined: list[Action] = []
        for is_bytes, group in itertools.groupby(made, lambda action: isinstance(action, bytes)):
            pieces = list(group)
            joined += (
                [b"".join(piece for piece in pieces if isinstance(piece, bytes))] if is_bytes else pieces
            )
        return joined

    def _play(self, step: Step) -> Iterator[Action]:
        match step:
            case {"raw": text}:
                yield text.encode()
            case {"wait_s": seconds}:
                yield float(seconds)
            case {"repeat": times, "steps": steps}:
                for each in [*steps] * int(times):
                    yield from self._play(each)
            case {"finish": reason}:
                yield from self._last(reason)
            case {"error": error}:
                yield from self._first()
                self._has_ended = True
                yield b"data: " + orjson.dumps({"error": error}) + b"\n\n"
            case {"do": deed} if deed in _ENDS:
                self._has_ended = True
                yield deed
            case _:
                yield from self._say({"text": step} if isinstance(step, str) else step)

    def _say(self, step: Mapping[str, Any]) -> Iterator[bytes]:
        if "progress" in step:
            done, total = step["progress"]
            progress = {"total": total, "cache": 0, "processed": done, "time_ms": done}
            yield self._frame({"choices": [_ROLE], "prompt_progress": progress})
            return
        yield from self._first()
        self._pieces += 1
        match step:
            case {"text": text}:
                yield self._delta({"content": text})
            case {"reasoning": text}:
                yield self._delta({"reasoning_content": text})
            case {"call": call}:
                yield from self._call(call)
            case _:
                raise ValueError(f"{step!r} is no step")

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        text = call["arguments"]
        half = len(text) // 2
        function = {"name": call["name"], "arguments": text[:half]}
        begin = {"index": 0, "id": "call_1", "type": "function", "function": function}
        yield self._delta({"tool_calls": [begin]})
        yield self._delta({"tool_calls": [{"index": 0, "function": {"arguments": text[half:]}}]})

    def _first(self) -> Iterator[bytes]:
        if self._form == "chat" and not self._has_begun:
            yield self._frame({"choices": [_ROLE]})
        self._has_begun = True

    def _last(self, reason: str) -> Iterator[bytes]:
        yield from self._first()
        self._has_ended = True
        timings = {"cache_n": 0, "prompt_n": self._prompt_tokens, "predicted_n": self._pieces}
        if self._form == "completion":
            stop_type = "limit" if reason == "length" else "eos"
            yield self._frame({"content": "", "stop": True, "stop_type": stop_type, "timings": timings})
            return
        choice = {"finish_reason": reason, "index": 0, "delta": {}}
        yield self._frame({"choices": [choice], "timings": timings})
        if self._include_usage:
            total = self._prompt_tokens + self._pieces
            usage = {"completion_tokens": self._pieces, "prompt_tokens": self._prompt_tokens}
            yield self._frame({"choices": [], "usage": {**usage, "total_tokens": total}})
        yield b"data: [DONE]\n\n"

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        if self._form == "completion":
            return self._frame({"content": delta.get("content") or "", "stop": False})
        return self._frame({"choices": [{"finish_reason": None, "index": 0, "delta": delta}]})

    def _frame(self, fields: Mapping[str, Any]) -> bytes:
        if self._form == "completion":
            return b"data: " + orjson.dumps({"index": 0, "tokens": [], "id_slot": 0, **fields}) + b"\n\n"
        head = {"choices": [], "created": _CREATED, "id": "chatcmpl-scripted", "model": self._model}
        rest = {"system_fingerprint": "scripted", "object": "chat.completion.chunk"}
        return b"data: " + orjson.dumps({**head, **rest, **fields}) + b"\n\n"


def chosen(answers: Mapping[str, Sequence[Step]], asked: str) -> Sequence[Step]:
    """The steps for what was asked: those whose name it ends with, the longest name first; else those of "*"."""
    for name in sorted(answers, key=len, reverse=True):
        if name != "*" and asked.endswith(name):
            return answers[name]
    return answers.get("*", ("Hello.",))
