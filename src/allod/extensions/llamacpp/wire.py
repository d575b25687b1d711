"""What llama.cpp's server says, in our words: its frames as events, its errors as ours.

No text of the engine's reaches a caller as it is: it can hold paths, and pieces of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from allod.sdk.errors import (
    AllodError,
    BadRequest,
    ContextTooLong,
    EngineFailed,
    UnsupportedParameter,
)
from allod.sdk.stream import (
    ChatEvent,
    ChoiceFinished,
    Progress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error"'
_DATA = b"data: "

_FIELD = re.compile(r"^Field '([a-z_.]+)': (.*)", re.DOTALL)
_RANGE = re.compile(r"Value must be between [-+.\w]+ <= value <= [-+.\w]+")
_TYPE = re.compile(r"type must be ([a-z ]+), but is ([a-z ]+)")


def frames_of(chunk: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of the server-sent events in `chunk`; comments and [DONE] are passed over."""
    for line in chunk.split(b"\n"):
        if line.startswith(b"data: {"):
            yield orjson.loads(line[len(_DATA) :])


def chat_events(frame: dict[str, Any]) -> Iterator[ChatEvent]:
    """Events of one frame of /v1/chat/completions."""
    if progress := frame.get("prompt_progress"):
        yield progress_of(progress)
        return
    for choice in frame["choices"]:
        index = choice["index"]
        delta = choice["delta"]
        logprobs = (choice.get("logprobs") or {}).get("content")
        if delta.get("reasoning_content"):
            yield ReasoningDelta(index, delta["reasoning_content"])
        if delta.get("content") or logprobs:
            yield TextDelta(index, delta.get("content") or "", logprobs)
        for call in delta.get("tool_calls") or ():
            function = call.get("function", {})
            yield ToolCallDelta(
                index,
                call.get("index", 0),
                call.get("id"),
                function.get("name"),
                function.get("arguments", ""),
            )
        if choice.get("finish_reason"):
            yield ChoiceFinished(index, choice["finish_reason"])


def completion_events(frame: dict[str, Any]) -> Iterator[ChatEvent]:
    """Events of one frame of /completion or /infill."""
    if progress := frame.get("prompt_progress"):
        yield progress_of(progress)
        return
    index = frame.get("index", 0)
    if frame["content"] or frame.get("completion_probabilities"):
        yield TextDelta(index, frame["content"], frame.get("completion_probabilities"))
    if frame.get("stop"):
        yield ChoiceFinished(index, "length" if frame.get("stop_type") == "limit" else "stop")


def progress_of(progress: dict[str, Any]) -> Progress:
    """A prompt_progress object."""
    return Progress(progress["total"], progress["cache"], progress["processed"], progress["time_ms"])


class UsageCounter:
    """Adds up the `timings` of the last frames of each choice."""

    def __init__(self) -> None:
        self.usage: Usage | None = None

    def look_at(self, chunk: bytes) -> None:
        """Take what `chunk` says, if it says anything. Cheap where it does not."""
        if b'"timings"' not in chunk:
            return
        for frame in frames_of(chunk):
            if timings := frame.get("timings"):
                cached = max(0, timings.get("cache_n", 0))
                usage = Usage(cached + timings["prompt_n"], timings["predicted_n"], cached, timings)
                self.usage = usage if self.usage is None else self.usage + usage


def error_of(status: int, body: bytes, model: str) -> AllodError:
    """Our error for an error answer of the worker."""
    try:
        error = orjson.loads(body)["error"]
        return error_from(error, model)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return EngineFailed(f"{model!r}: the engine answered with status {status}.")


def error_from(error: dict[str, Any], model: str) -> AllodError:
    """Our error for an error object of the worker."""
    text = str(error.get("message", ""))
    code = error.get("code")
    if error.get("type") == "exceed_context_size_error":
        asked, context = error.get("n_prompt_tokens"), error.get("n_ctx")
        return ContextTooLong(
            f"The prompt has {asked} tokens, and the context of {model!r} holds {context}.",
            fix="Shorten the prompt, or set a larger context_tokens for this model.",
            param="messages",
        )
    if match := _FIELD.match(text):
        return BadRequest(_safe_reason(match[2]), fix="See docs/api.md for its values.", param=match[1])
    if "grammar" in text.lower() or "json_schema" in text.lower() or "schema" in text.lower():
        return BadRequest(
            "The engine cannot follow this grammar or JSON schema.",
            fix="Check its syntax; llama.cpp supports a subset of JSON Schema.",
            param="grammar" if "grammar" in text.lower() else "response_format",
        )
    if "Context size has been exceeded" in text:
        return EngineFailed(f"The answer of {model!r} ran over its context.", fix="Set max_tokens.")
    if "invalid tokens" in text:
        return BadRequest(
            f"A token id is not in the vocabulary of {model!r}.", fix="See /v1/tokenize.", param="prompt"
        )
    if "too large to process" in text:
        return BadRequest(
            f"One input has more tokens than {model!r} reads in one batch.",
            fix="Shorten it, or raise llamacpp.batch_tokens.",
            param="input",
        )
    if code == 501:
        return UnsupportedParameter(f"{model!r} cannot do this.", fix="Choose another model.")
    if code == 400:
        return BadRequest(
            f"The engine refused this request for {model!r}.",
            fix="Often the chat template: roles must alternate, and the first may have to be the user's.",
        )
    return EngineFailed(f"The engine failed while it worked for {model!r} (its code: {code}).")


def _safe_reason(text: str) -> str:
    """The engine's reason where it is of a form that holds no words of the caller's."""
    if match := _RANGE.search(text):
        return match[0] + "."
    if match := _TYPE.search(text):
        return f"Its type must be {match[1]}, not {match[2]}."
    return "The engine does not accept this value."
