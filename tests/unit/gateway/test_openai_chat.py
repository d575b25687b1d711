"""OpenAI's chat dialect: what it takes, what it refuses by name, and the wire form of what it gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from allod.gateway.dialects import openai_chat
from allod.sdk.chat import ChatRequest
from allod.sdk.errors import BadRequest
from allod.sdk.stream import (
    ChatEvent,
    ChoiceFinished,
    Progress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

HELLO = [{"role": "user", "content": "Hello"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def parse(**fields: Any) -> tuple[ChatRequest, openai_chat.Shape]:
    return openai_chat.parse({"messages": HELLO, **fields})


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    return caught.value


# what goes in


def test_the_least_that_is_needed() -> None:
    request, shape = openai_chat.parse({"messages": HELLO})
    assert (request.model, request.messages, request.parameters) == ("default", HELLO, {})
    assert (request.choices, request.max_tokens, request.keep_alive_s) == (1, None, None)
    assert shape == openai_chat.Shape(stream=False, include_usage=False, top_logprobs=0, is_seed_drawn=True)


def test_every_field_of_openai() -> None:
    passed = {
        "temperature": 0.5,
        "top_p": 1,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "stop": ["a", "b"],
        "logprobs": True,
        "top_logprobs": 20,
        "logit_bias": {"50256": -100},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {}, "strict": True},
        },
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "user": "someone",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"},
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "verbosity": "medium",
        "stream_options": {"include_usage": True},
    }
    own = {"stream": True, "n": 128, "max_completion_tokens": 9, "seed": 7, "model": "m"}
    request, shape = parse(**passed, **own)
    assert request.parameters == passed
    assert not shape.store
    assert parse(store=True)[1].store
    assert (request.model, request.choices, request.max_tokens, request.seed) == ("m", 128, 9, 7)
    assert shape == openai_chat.Shape(stream=True, include_usage=True, top_logprobs=20, is_seed_drawn=False)


def test_what_is_not_openais_is_kept_for_the_engine_to_judge() -> None:
    assert parse(top_k=5, frobnicate=1)[0].parameters == {"top_k": 5, "frobnicate": 1}


def test_null_is_as_good_as_left_out() -> None:
    names = [name for name in openai_chat.ChatBody.model_fields if name not in ("model", "messages")]
    request, shape = parse(**dict.fromkeys(names))
    assert (request.choices, request.max_tokens, shape.stream) == (1, None, False)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", 5, "model"),
        ("messages", "hi", "messages"),
        ("messages", [], "messages"),
        ("messages", [5], "messages[0]"),
        ("messages", [{"content": "x"}], "messages[0].role"),
        ("messages", [{"role": "alien", "content": "x"}], "messages[0].role"),
        ("messages", [*HELLO, {"role": "user"}], "messages[1].content"),
        ("messages", [{"role": "user", "content": []}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ("messages", [{"role": "assistant", "tool_calls": []}], "messages[0].content"),
        (
            "messages",
            [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
            "messages[0].tool_calls[0].function",
        ),
        ("stream", "yes", "stream"),
        ("stream", 1, "stream"),
        ("stream_options", {"include_usage": "x"}, "stream_options.include_usage"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("n", True, "n"),
        ("n", 1.5, "n"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", -2, "max_tokens"),
        ("max_tokens", "9", "max_tokens"),
        ("max_tokens", 10**12, "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("seed", "x", "seed"),
        ("seed", 1.5, "seed"),
        ("temperature", "hot", "temperature"),
        ("temperature", 2.1, "temperature"),
        ("temperature", -0.1, "temperature"),
        ("top_p", 1.1, "top_p"),
        ("frequency_penalty", 3, "frequency_penalty"),
        ("presence_penalty", -3, "presence_penalty"),
        ("stop", 5, "stop"),
        ("stop", [5], "stop"),
        ("stop", "", "stop"),
        ("stop", ["a", ""], "stop"),
        ("logprobs", 5, "logprobs"),
        ("top_logprobs", 3, "top_logprobs"),
        ("logit_bias", {"1": 101}, "logit_bias"),
        ("logit_bias", [1], "logit_bias"),
        ("response_format", "json", "response_format"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema",
        ),
        ("tools", [{"type": "web"}], "tools[0].type"),
        ("tools", [{"type": "function", "function": {"name": "two words"}}], "tools[0].function.name"),
        ("tools", [{"type": "function"}], "tools[0].function"),
        ("tool_choice", "any", "tool_choice"),
        ("parallel_tool_calls", "no", "parallel_tool_calls"),
        ("functions", [{"name": ""}], "functions[0].name"),
        ("user", 5, "user"),
        ("keep_alive", "soon", "keep_alive"),
        ("keep_alive", [], "keep_alive"),
        ("return_progress", "x", "return_progress"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, param: str) -> None:
    error = refusal(**{field: value})
    assert error.param == param
    assert error.detail.startswith(param)


@given(st.text(min_size=8))
def test_a_refusal_never_quotes_a_message(text: str) -> None:
    error = refusal(messages=[{"role": "user", "content": [{"type": "text", "text": text}, text]}])
    assert repr(text)[1:-1] not in error.message


def test_top_logprobs_need_logprobs() -> None:
    assert refusal(top_logprobs=3, logprobs=False).param == "top_logprobs"
    assert refusal(top_logprobs=21, logprobs=True).param == "top_logprobs"


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_kinds_of_answers_without_a_schema(kind: str) -> None:
    assert parse(response_format={"type": kind})[0].parameters == {"response_format": {"type": kind}}


def test_the_newer_name_of_the_limit_wins() -> None:
    assert parse(max_tokens=5)[0].max_tokens == 5
    assert parse(max_tokens=5, max_completion_tokens=9)[0].max_tokens == 9
    assert parse(max_tokens=-1)[0].max_tokens is None
    assert "max_tokens" not in parse(max_tokens=5)[0].parameters


def test_a_seed_is_drawn_where_none_is_given() -> None:
    drawn = {parse()[0].seed for _ in range(8)} | {parse(seed=-1)[0].seed for _ in range(8)}
    assert len(drawn) > 8
    assert parse(seed=42)[0].seed == 42
    assert 0 <= parse(seed=2**63)[0].seed < 2**31
    assert 0 <= parse(seed=-5)[0].seed < 2**31


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_roles(role: str) -> None:
    assert parse(messages=[{"role": role, "content": "x", "name": "n"}])[0].messages[0]["role"] == role


def test_parts_of_a_message() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    assert parse(messages=[{"role": "user", "content": parts}])[0].messages[0]["content"] == parts


@pytest.mark.parametrize(
    "url",
    [
        *("http://10.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "a.png"),
        *("data:text/html,x", "DATA:image/png;base64,AAAA", "", None, 5, ["data:image/png;base64,AAAA"]),
    ],
)
def test_images_are_never_fetched(url: Any) -> None:
    error = refusal(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    )
    assert error.param == "messages[0].content[0].image_url.url"


def test_an_image_without_an_address() -> None:
    error = refusal(messages=[{"role": "user", "content": [{"type": "image_url"}]}])
    assert error.param == "messages[0].content[0].image_url.url"


def test_a_conversation_with_tools() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ]
    assert parse(messages=messages, tools=[TOOL])[0].messages == messages


def test_a_last_answer_without_a_word_is_begun_anew() -> None:
    empty = {"role": "assistant", "content": ""}
    assert parse(messages=[*HELLO, empty])[0].messages == HELLO
    assert parse(messages=[empty])[0].messages == [empty]
    for said in ({"reasoning_content": "Hm"}, {"tool_calls": [CALL]}):
        assert parse(messages=[*HELLO, {**empty, **said}])[0].messages[-1] == {**empty, **said}


def test_a_refusal_is_what_the_assistant_said() -> None:
    said = [
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    messages = parse(messages=[*HELLO, *said, *HELLO])[0].messages
    assert messages[1] == {"role": "assistant", "content": "No."}
    assert messages[2] == {"role": "assistant", "content": [{"type": "text", "text": "No."}]}
    assert refusal(messages=[{"role": "assistant", "refusal": None}]).param == "messages[0].content"


def test_older_calls_are_calls_of_tools() -> None:
    called = {"name": "look", "arguments": "{}"}
    messages = parse(
        messages=[
            *HELLO,
            {"role": "assistant", "content": None, "function_call": called},
            {"role": "function", "name": "look", "content": "5"},
        ]
    )[0].messages
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": called}],
        },
        {"role": "tool", "name": "look", "content": "5", "tool_call_id": "call_1"},
    ]
    wrong = {"role": "assistant", "content": None, "function_call": {"name": "look"}}
    assert refusal(messages=[*HELLO, wrong]).param == "messages[1].function_call.arguments"


def test_older_and_newer_names_at_once_are_refused() -> None:
    function = TOOL["function"]
    assert refusal(tools=[TOOL], functions=[function]).param == "functions"
    called = {"function_call": "none", "tool_choice": "auto"}
    assert refusal(tools=[TOOL], **called).param == "function_call"
    assert parse(tools=[TOOL], functions=None)[0].parameters["tools"] == [TOOL]


def test_older_names_of_tools() -> None:
    request, _ = parse(functions=[TOOL["function"]], function_call={"name": "look"})
    assert request.parameters == {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    }
    assert parse(functions=[TOOL["function"]], function_call="none")[0].parameters["tool_choice"] == "none"


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        (None, None),
        (0, 0),
        (5, 5),
        (-1, -1),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("-1m", -60),
    ],
)
def test_how_long_to_keep(given_: Any, wanted: float | None) -> None:
    assert parse(keep_alive=given_)[0].keep_alive_s == wanted


@pytest.mark.parametrize(
    "value", ["", " ", "-", "soon", "5 minutes", "1d", "nan", "inf", "-infinity", "1e999"]
)
def test_what_is_no_time_to_keep(value: str) -> None:
    assert refusal(keep_alive=value).param == "keep_alive"


# what comes out

USAGE = Usage(10, 3, 4, {"predicted_per_second": 50.0})
PROBABILITY = {"id": 1, "token": "Hi", "bytes": [72, 105], "logprob": -0.5}
LOGPROBS: list[dict[str, Any]] = [
    {**PROBABILITY, "top_logprobs": [PROBABILITY, {**PROBABILITY, "token": "Ho"}]}
]
ANSWER: list[ChatEvent] = [
    Progress(10, 4, 10, 1.5),
    ReasoningDelta(0, "Hm. "),
    TextDelta(0, "Hi", LOGPROBS),
    TextDelta(1, "你好"),
    ToolCallDelta(0, 0, "call_1", "look", ""),
    ToolCallDelta(0, 0, None, None, '{"a":'),
    ToolCallDelta(0, 0, None, None, "1}"),
    ToolCallDelta(0, 1, "call_2", "see", "{}"),
    ChoiceFinished(1, "stop"),
    ChoiceFinished(0, "tool_calls"),
    USAGE,
]


def shape(*, include_usage: bool = False, top_logprobs: int = 1) -> openai_chat.Shape:
    return openai_chat.Shape(True, include_usage, top_logprobs, True)


def encoded(
    events: list[ChatEvent], *, include_usage: bool = False, wants_progress: bool = False
) -> list[dict[str, Any]]:
    encoder = openai_chat.Encoder("m", shape(include_usage=include_usage), {"seed": 5})
    sent = b"".join(encoder.frames(event, wants_progress=wants_progress) for event in events)
    assert sent.endswith(b"\n\n")
    frames = [frame for frame in sent.split(b"\n\n") if frame.startswith(b"data: ")]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def test_chunks_are_what_the_official_client_reads() -> None:
    chunks = encoded(ANSWER, include_usage=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk.get("allod") for chunk in chunks if "allod" in chunk] == [{"seed": 5}]
    assert "allod" in chunks[0]


def test_each_choice_begins_with_its_role_and_ends_with_a_reason() -> None:
    chunks = encoded(ANSWER)
    for index, reason in ((0, "tool_calls"), (1, "stop")):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == reason


def test_choices_begin_in_order_whichever_speaks_first() -> None:
    state = ChatCompletionStreamState()  # the official client's own, which counts on it
    for chunk in encoded([TextDelta(2, "c"), TextDelta(0, "a"), TextDelta(1, "b"), TextDelta(2, "d")]):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    choices = state.current_completion_snapshot.choices
    assert [(choice.index, choice.message.content) for choice in choices] == [(0, "a"), (1, "b"), (2, "cd")]


def test_a_streamed_tool_call_can_be_joined() -> None:
    calls: dict[int, dict[str, str]] = {}
    deltas = [choice["delta"] for chunk in encoded(ANSWER) for choice in chunk["choices"]]
    for sent in deltas:
        for delta in sent.get("tool_calls", ()):
            call = calls.setdefault(delta["index"], {"id": delta.get("id"), "name": "", "arguments": ""})
            call["name"] += delta["function"].get("name", "")
            call["arguments"] += delta["function"]["arguments"]
    assert calls == {
        0: {"id": "call_1", "name": "look", "arguments": '{"a":1}'},
        1: {"id": "call_2", "name": "see", "arguments": "{}"},
    }


def test_every_chunk_has_a_choice_unless_more_was_asked_for() -> None:
    assert all(chunk["choices"] for chunk in encoded(ANSWER))
    *others, last = encoded(ANSWER, include_usage=True)
    assert all(chunk["choices"] for chunk in others)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert last["timings"] == {"predicted_per_second": 50.0}


def test_progress_is_told_to_those_who_ask() -> None:
    (chunk,) = [chunk for chunk in encoded(ANSWER, wants_progress=True) if "prompt_progress" in chunk]
    assert chunk["prompt_progress"] == {"total": 10, "cache": 4, "processed": 10, "time_ms": 1.5}
    assert not [chunk for chunk in encoded(ANSWER) if "prompt_progress" in chunk]


def test_no_more_alternatives_than_were_asked_for() -> None:
    found = [
        choice["logprobs"]
        for chunk in encoded(ANSWER)
        for choice in chunk["choices"]
        if choice.get("logprobs")
    ]
    assert found == [
        {
            "content": [
                {
                    **{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}],
                }
            ],
            "refusal": None,
        }
    ]


async def stream(events: list[ChatEvent]) -> AsyncIterator[ChatEvent]:
    for event in events:
        yield event


async def test_a_whole_answer_is_what_the_official_client_reads() -> None:
    encoder = openai_chat.Encoder("m", shape(), {"seed": 5})
    whole = await encoder.gather(stream(ANSWER), 2)
    read = ChatCompletion.model_validate(whole, strict=True)
    first, second = read.choices
    assert (first.message.content, first.finish_reason) == ("Hi", "tool_calls")
    assert [call.id for call in first.message.tool_calls or ()] == ["call_1", "call_2"]
    assert (second.message.content, second.finish_reason, second.message.tool_calls) == ("你好", "stop", None)
    assert first.logprobs and first.logprobs.content and first.logprobs.content[0].token == "Hi"
    assert read.usage and read.usage.total_tokens == 13
    assert whole["choices"][0]["message"]["reasoning_content"] == "Hm. "
    assert whole["allod"] == {"seed": 5}


async def test_an_answer_that_is_only_a_call_has_no_text() -> None:
    encoder = openai_chat.Encoder("m", shape(), {})
    whole = await encoder.gather(
        stream([ToolCallDelta(0, 0, "c", "look", "{}"), ChoiceFinished(0, "tool_calls")]), 1
    )
    assert whole["choices"][0]["message"]["content"] is None


async def test_an_empty_answer_is_empty_text() -> None:
    whole = await openai_chat.Encoder("m", shape(), {}).gather(stream([ChoiceFinished(0, "length")]), 1)
    ChatCompletion.model_validate(whole, strict=True)
    assert whole["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        (b":\n\n", None),
        (b'data: {"a":1}\n\n', b'data: {"a":1,"allod":{"seed":5}}\n\n'),
        (
            b':\n\ndata: {"a":1}\n\ndata: {"b":2}\n\n',
            b':\n\ndata: {"a":1,"allod":{"seed":5}}\n\ndata: {"b":2}\n\n',
        ),
        (b'data: {"a":{"b":"}"}}\n\n', b'data: {"a":{"b":"}"},"allod":{"seed":5}}\n\n'),
        (
            b'data: {"c":[{"delta":{"role":"assistant","content":null}}]}\n\n',
            b'data: {"c":[{"delta":{"role":"assistant","content":null}}],"allod":{"seed":5}}\n\n',
        ),
        (  # llama.cpp forgets the role where the first token is no whole character
            b'data: {"c":[{"delta":{"content":"\\"role\\": \xf0\x9f\xa7\xbf"}}]}\n\n',
            b'data: {"c":[{"delta":{"role":"assistant","content":"\\"role\\": \xf0\x9f\xa7\xbf"}}],'
            b'"allod":{"seed":5}}\n\n',
        ),
        (
            b'data: {"c":[{"delta":{}}]}\n\n',
            b'data: {"c":[{"delta":{"role":"assistant"}}],"allod":{"seed":5}}\n\n',
        ),
    ],
)
def test_a_mark_in_frames_that_are_passed_on(frames: bytes, wanted: bytes | None) -> None:
    assert openai_chat.with_extras(frames, {"seed": 5}) == wanted


def test_what_stages_noted_stands_beside_the_answer() -> None:
    request, _ = parse(seed=5)
    assert openai_chat.extras(request, []) == {"seed": 5}
    assert openai_chat.extras(request, [{"stage": "s"}]) == {"seed": 5, "notes": [{"stage": "s"}]}
