"""What llama.cpp says, in our words, and nothing of its own text to a caller."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.llamacpp.wire import (
    UsageCounter,
    chat_events,
    completion_events,
    error_from,
    error_of,
    frames_of,
)
from allod.sdk.errors import (
    AllodError,
    BadRequest,
    ContextTooLong,
    EngineFailed,
    UnsupportedParameter,
)
from allod.sdk.stream import (
    ChoiceFinished,
    Progress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

SECRET = "/home/ann/Müller & Söhne, 4711"

# errors


@pytest.mark.parametrize(
    ("error", "kind", "param", "words"),
    [
        (
            {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9001, "n_ctx": 8192},
            ContextTooLong,
            "messages",
            "9001 tokens, and the context of 'm' holds 8192",
        ),
        (
            {"code": 400, "message": "Field 'top_k': Value must be between 0 <= value <= 100"},
            BadRequest,
            "top_k",
            "Value must be between 0 <= value <= 100.",
        ),
        (
            {"code": 400, "message": "Field 'stop': type must be array, but is object"},
            BadRequest,
            "stop",
            "must be array, not object",
        ),
        ({"code": 400, "message": "Field 'min_p': no"}, BadRequest, "min_p", "does not accept this value"),
        (
            {"code": 400, "message": "failed to parse grammar"},
            BadRequest,
            "grammar",
            "cannot follow this grammar",
        ),
        ({"code": 400, "message": "JSON schema error"}, BadRequest, "response_format", "JSON schema"),
        ({"code": 500, "message": "Context size has been exceeded."}, EngineFailed, None, "over its context"),
        (
            {"code": 400, "message": "Prompt contains invalid tokens"},
            BadRequest,
            "prompt",
            "vocabulary of 'm'",
        ),
        ({"code": 500, "message": "input is too large to process"}, BadRequest, "input", "in one batch"),
        ({"code": 501, "message": "no infill"}, UnsupportedParameter, None, "cannot do this"),
        ({"code": 400, "message": "roles must alternate"}, BadRequest, None, "refused this request"),
        ({"code": 500, "message": "std::bad_alloc"}, EngineFailed, None, "failed while it worked for 'm'"),
        ({}, EngineFailed, None, "failed while it worked for 'm'"),
    ],
)
def test_an_error_of_the_engine_s_is_said_in_our_words(
    error: dict[str, Any], kind: type[AllodError], param: str | None, words: str
) -> None:
    ours = error_from(error, "m")
    assert (type(ours), ours.param) == (kind, param)
    assert words in ours.detail


_engine_texts = st.sampled_from(
    [
        "{}",
        "failed to open {}",
        "Field 'stop': {}",
        "Field 'stop': type must be array, but is string: {}",
        "Field '{}': no",
        "grammar: {}",
        "schema {}",
        "Context size has been exceeded {}",
        "invalid tokens {}",
        "{} too large to process",
    ]
)


@given(_engine_texts, st.sampled_from([400, 500, 501, 503, None, "x"]), st.sampled_from(["", "server_error"]))
def test_no_text_of_the_engine_s_reaches_a_caller(text: str, code: object, kind: str) -> None:
    ours = error_from({"message": text.format(SECRET), "code": code, "type": kind}, "m")
    said = f"{ours.message} {ours.param}"
    assert not any(word in said for word in SECRET.split())


@pytest.mark.parametrize("body", [b"", b"<html>" + SECRET.encode(), b"[]", b"5", b"{}", b'{"error"', b"\xff"])
def test_an_answer_that_is_no_error_object_is_an_error_of_its_status(body: bytes) -> None:
    ours = error_of(503, body, "m")
    assert type(ours) is EngineFailed
    assert ours.detail == "'m': the engine answered with status 503."


# frames


def test_frames_are_taken_from_between_comments_and_the_end() -> None:
    chunk = b': ping\n\ndata: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    assert list(frames_of(chunk)) == [{"a": 1}, {"b": 2}]


def frame(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 1, "delta": delta, "finish_reason": None, **more}]}


def test_a_chat_frame_becomes_events() -> None:
    logprobs = [{"token": "a", "logprob": -1.0}]
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    for given_frame, events in [
        (frame({"role": "assistant", "content": None}), []),
        (frame({"content": "a"}), [TextDelta(1, "a")]),
        (frame({"content": "a"}, logprobs={"content": logprobs}), [TextDelta(1, "a", logprobs)]),
        (frame({}, logprobs={"content": logprobs}), [TextDelta(1, "", logprobs)]),
        (frame({"reasoning_content": "hm"}), [ReasoningDelta(1, "hm")]),
        (frame({"tool_calls": [call]}), [ToolCallDelta(1, 0, "c", "f", "")]),
        (
            frame({"tool_calls": [{"function": {"arguments": "{}"}}]}),
            [ToolCallDelta(1, 0, None, None, "{}")],
        ),
        (frame({}, finish_reason="length"), [ChoiceFinished(1, "length")]),
        ({"choices": []}, []),
    ]:
        assert list(chat_events(given_frame)) == events


def test_progress_comes_by_itself() -> None:
    progress = {"total": 9, "cache": 2, "processed": 5, "time_ms": 1.5}
    told = {"prompt_progress": progress, "choices": [], "content": ""}
    assert list(chat_events(told)) == list(completion_events(told)) == [Progress(9, 2, 5, 1.5)]


@pytest.mark.parametrize(("stop_type", "reason"), [("limit", "length"), ("eos", "stop"), ("word", "stop")])
def test_the_end_of_a_completion_says_why(stop_type: str, reason: Any) -> None:
    last = {"index": 2, "content": "z", "stop": True, "stop_type": stop_type}
    assert list(completion_events(last)) == [TextDelta(2, "z"), ChoiceFinished(2, reason)]


def test_usage_adds_up_over_choices_and_counts_the_prompt_once() -> None:
    counter = UsageCounter()
    assert counter.usage is None
    timings = {"cache_n": 4, "prompt_n": 6, "predicted_n": 3}
    for _ in range(2):
        counter.look_at(b"data: " + json.dumps({"choices": [], "timings": timings}).encode() + b"\n\n")
    counter.look_at(b'data: {"choices": []}\n\n')
    assert counter.usage == Usage(10, 6, 4, timings)


def test_a_cache_that_is_not_known_counts_as_none() -> None:
    counter = UsageCounter()
    counter.look_at(b'data: {"timings": {"cache_n": -1, "prompt_n": 6, "predicted_n": 3}}\n\n')
    assert counter.usage is not None
    assert (counter.usage.prompt_tokens, counter.usage.cached_tokens) == (6, 0)
