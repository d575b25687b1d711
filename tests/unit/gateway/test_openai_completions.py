"""OpenAI's older completions: forms of prompts, echo, and the parallel lists of log-probabilities."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from allod.gateway.dialects import openai_completions
from allod.sdk.errors import BadRequest
from allod.sdk.stream import ChatEvent, ChoiceFinished, Progress, TextDelta, Usage


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("once", ["once"]),
        (["once", "upon"], ["once", "upon"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ("", [""]),
    ],
)
def test_forms_of_a_prompt(prompt: Any, wanted: list[Any]) -> None:
    requests, _ = openai_completions.parse({"prompt": prompt})
    assert [request.prompt for request in requests] == wanted
    assert len({request.seed for request in requests}) == 1


@pytest.mark.parametrize(
    "prompt", [[], [[]], [[1], []], ["a", 5], [1, "a"], [1, [2]], [1.5], [True], 5, None, {}]
)
def test_what_is_no_prompt(prompt: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        openai_completions.parse({"prompt": prompt})
    assert (caught.value.param or "").startswith("prompt")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("suffix", 5),
            ("echo", "yes"),
            ("logprobs", True),
            ("logprobs", -1),
            ("logprobs", 101),
            ("stream", 1),
        ),
        *(("n", 0), ("n", 129), ("best_of", 0), ("best_of", 2), ("max_tokens", 0), ("max_tokens", "1")),
        *(
            ("max_tokens", 10**12),
            ("seed", "x"),
            ("temperature", 3),
            ("top_p", -1),
            ("stop", 5),
            ("stop", ""),
        ),
        *(("frequency_penalty", 9), ("presence_penalty", 9), ("logit_bias", {"1": 500}), ("user", 1)),
        *(("keep_alive", "x"), ("model", None)),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        openai_completions.parse({"prompt": "x", field: value})
    assert caught.value.param == field


def test_what_is_asked_for_where_nothing_is_said() -> None:
    (request,), shape = openai_completions.parse({"prompt": "x"})
    assert (request.max_tokens, request.choices, request.echo, request.logprobs) == (16, 1, False, None)
    assert shape == openai_completions.Shape(False, False, None)


def test_what_is_asked_for() -> None:
    body = {"prompt": "x", "suffix": "z", "echo": True, "logprobs": 5, "n": 3, "best_of": 3, "max_tokens": 7}
    (request,), shape = openai_completions.parse(
        {**body, "seed": 4, "top_k": 1, "temperature": 0, "stream": True}
    )
    assert (request.suffix, request.echo, request.logprobs, request.choices) == ("z", True, 5, 3)
    assert (request.max_tokens, request.seed, request.parameters) == (7, 4, {"top_k": 1, "temperature": 0})
    assert (shape.stream, shape.logprobs) == (True, 5)


def test_echo_alone_needs_no_new_token() -> None:
    (request,), _ = openai_completions.parse({"prompt": "x", "echo": True, "max_tokens": 0})
    assert request.max_tokens == 0


def test_no_limit() -> None:
    (request,), _ = openai_completions.parse({"prompt": "x", "max_tokens": -1})
    assert request.max_tokens is None


# what comes out


def probability(text: bytes, logprob: float | None = -0.5, top: tuple[bytes, ...] = ()) -> dict[str, Any]:
    shown = text.decode(errors="replace")
    others = [{"token": "", "bytes": list(other), "logprob": -1.0} for other in top]
    return {"id": 1, "token": shown, "bytes": list(text), "logprob": logprob, "top_logprobs": others}


ANSWER: list[ChatEvent] = [
    TextDelta(0, "The", [probability(b"The", None)]),
    TextDelta(
        0, " 世", [probability(b" "), probability(b"\xe4\xb8"), probability(b"\x96", top=(b"a", b"b"))]
    ),
    TextDelta(0, "!", [probability(b"!")]),
    ChoiceFinished(0, "length"),
]


async def stream(events: list[ChatEvent]) -> AsyncIterator[ChatEvent]:
    for event in events:
        yield event


async def test_a_whole_answer_is_what_the_official_client_reads() -> None:
    encoder = openai_completions.Encoder("m", openai_completions.Shape(False, False, 1), 5)
    choices, usage = await encoder.gather(stream([*ANSWER, Usage(3, 2, 1)]), 1, 4)
    whole = encoder.whole(choices, [usage, Usage(5, 1, 0)])
    said = choices[0]["logprobs"]
    typed = {
        name: values[1:] for name, values in said.items()
    }  # null for the first: in no type, but in the API
    read = Completion.model_validate({**whole, "choices": [{**choices[0], "logprobs": typed}]}, strict=True)
    assert (read.choices[0].index, read.choices[0].text, read.choices[0].finish_reason) == (
        4,
        "The 世!",
        "length",
    )
    assert read.choices[0].logprobs is not None
    assert read.usage and (read.usage.prompt_tokens, read.usage.completion_tokens) == (8, 3)
    assert whole["allod"] == {"seed": 5}
    assert said["tokens"] == ["The", " ", "bytes:\\xe4\\xb8", "bytes:\\x96", "!"]
    assert said["token_logprobs"] == [None, -0.5, -0.5, -0.5, -0.5]
    assert said["top_logprobs"] == [None, {}, {}, {"a": -1.0}, {}]
    assert said["text_offset"] == [0, 3, 4, 4, 5]


async def test_logprobs_are_null_where_nobody_asked() -> None:
    encoder = openai_completions.Encoder("m", openai_completions.Shape(False, False, None), 5)
    choices, _ = await encoder.gather(stream([TextDelta(0, "a"), ChoiceFinished(0, "stop")]), 1, 0)
    assert choices == [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}]


def sent(
    encoder: openai_completions.Encoder, events: list[ChatEvent], offset: int = 0
) -> list[dict[str, Any]]:
    frames = b"".join(encoder.frames(event, offset) for event in events).split(b"\n\n")
    return [json.loads(frame[6:]) for frame in frames if frame.startswith(b"data: ")]


def test_chunks_are_what_the_official_client_reads() -> None:
    encoder = openai_completions.Encoder("m", openai_completions.Shape(True, True, 1), 5)
    chunks = sent(encoder, [Progress(1, 0, 1, 1.0), *ANSWER], offset=2)
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
        assert {choice["index"] for choice in chunk["choices"]} == {2}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "The 世!"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:-1]]
    assert offsets == [[0], [3, 4, 4], [5]]
    assert [chunk.get("allod") for chunk in chunks] == [{"seed": 5}, None, None, None]


def test_the_last_chunk_has_the_usage_for_those_who_ask() -> None:
    asked = openai_completions.Encoder("m", openai_completions.Shape(True, True, None), 5)
    last = json.loads(asked.last([Usage(3, 2, 1)]).removeprefix(b"data: "))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5
    Completion.model_validate(last, strict=True)


def test_no_chunk_is_without_a_choice_for_those_who_do_not() -> None:
    silent = openai_completions.Encoder("m", openai_completions.Shape(True, False, None), 5)
    assert not silent.last([Usage(3, 2, 1)]).startswith(b"data:")


@given(st.text())
def test_a_token_of_whole_characters_is_its_text(text: str) -> None:
    assert openai_completions.token_label(probability(text.encode())) == text


@given(st.lists(st.text(min_size=1), min_size=1))
def test_offsets_point_at_the_tokens(tokens: list[str]) -> None:
    made = openai_completions.Logprobs(0)
    for token in tokens:
        made.add(TextDelta(0, token, [probability(token.encode())]), 0)
    said, text = made.as_dict(), "".join(tokens)
    for token, offset in zip(said["tokens"], said["text_offset"], strict=True):
        assert text[offset : offset + len(token)] == token
