"""One question to the model by /v1 and its answer, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from allod.cli.client import Client
from allod.cli.output import duration
from allod.cli.waiting import Waiting
from allod.cli.words import say


class Piece(NamedTuple):
    """A few characters of what the model says, or of what it thinks before."""

    kind: Literal["text", "thought"]
    text: str


@dataclass(slots=True)
class Answer:
    """What has come so far; whole once `finish_reason` is set. Times in seconds since the question was sent.

    Of a thread: its id, and how many messages of it no longer fit into the prompt, if more than the time before.
    """

    text: str = ""
    thought: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    model: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    seed: int | None = None
    thread: str = ""
    left_out: int = 0
    first_piece_s: float | None = None
    whole_s: float = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether anything of it has come."""
        return bool(self.text or self.tool_calls)

    def facts(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        facts: dict[str, Any] = {"text": self.text, "model": self.model, "finish_reason": self.finish_reason}
        if self.thought:
            facts["reasoning"] = self.thought
        if self.tool_calls:
            facts["tool_calls"] = self.tool_calls
        if self.seed is not None:
            facts["seed"] = self.seed
        if self.thread:
            facts["thread"] = self.thread
        return facts | {"usage": self.usage, "timings": self.timings, "first_token_s": self.first_piece_s}


def listen(client: Client, body: dict[str, Any], answer: Answer) -> Generator[Piece]:
    """Ask, and yield the answer's pieces as they come; `answer` is filled meanwhile, also if this ends early.

    Raises Failure.
    """
    body = {**body, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    started = time.monotonic()
    answer.model = str(body["model"])
    try:
        with (
            Waiting() as waiting,
            closing(client.stream("/v1/chat/completions", body)) as chunks,
        ):
            waiting.watch_loads(client, answer.model)
            for chunk in chunks:
                for piece in _pieces(chunk, answer, waiting):
                    waiting.close()
                    if answer.first_piece_s is None:
                        answer.first_piece_s = round(time.monotonic() - started, 4)
                    yield piece
    finally:
        answer.whole_s = time.monotonic() - started


def _pieces(chunk: dict[str, Any], answer: Answer, waiting: Waiting) -> Iterator[Piece]:
    if told := chunk.get("prompt_progress"):
        waiting.reading(*(int(told.get(name) or 0) for name in ("processed", "total", "cache")))
    answer.model = chunk.get("model") or answer.model
    answer.usage = chunk.get("usage") or answer.usage
    answer.timings = chunk.get("timings") or answer.timings
    answer.seed = (chunk.get("allod") or {}).get("seed", answer.seed)
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content"):
            answer.thought += thought
            yield Piece("thought", thought)
        if text := delta.get("content"):
            answer.text += text
            yield Piece("text", text)
        for call in delta.get("tool_calls") or []:
            add_call(answer.tool_calls, call)
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


def add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Put a piece of a tool call, as /v1 streams it, to what has come of the call before."""
    index = int(part.get("index") or 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = part.get("id") or call["id"]
    for name, text in (part.get("function") or {}).items():
        call["function"][name] = call["function"].get(name, "") + (text or "")


def stats(answer: Answer) -> str:
    """Tokens, speeds and the time to the first token, in one line."""
    timings, usage = answer.timings or {}, answer.usage or {}
    parts = [
        say("first token after {time}", time=duration(answer.first_piece_s) or "-"),
        _speed(say("prompt"), usage.get("prompt_tokens"), timings.get("prompt_per_second")),
        _speed(say("answer"), usage.get("completion_tokens"), timings.get("predicted_per_second")),
        duration(answer.whole_s),
    ]
    if cached := timings.get("cache_n"):
        parts[1] += " " + say("({tokens} from the cache)", tokens=cached)
    return " · ".join(parts)


def _speed(name: str, tokens: Any, per_second: Any) -> str:
    speed = f", {per_second:.1f} {say('tokens/s')}" if per_second else ""
    return f"{name} {say('{tokens} tokens', tokens='-' if tokens is None else tokens)}{speed}"
