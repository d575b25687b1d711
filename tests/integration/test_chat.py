"""Chat completions on the real model: every field does what it says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from allod.testing.server import RunningServer
from tests.conftest import MODEL
from tests.http_client import (
    CHAT,
    busy_slots,
    chat,
    frames,
    frames_in,
    post,
    request,
    streamed_text,
    user,
    wait_until,
)

COUNT: list[dict[str, Any]] = [*user("Count."), {"role": "assistant", "content": "1, 2, 3, 4, 5,"}]


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_the_openai_sdk_gets_a_plain_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="jan", messages=[{"role": "user", "content": "Say hi."}], max_tokens=8
    )
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_openai_sdk_streams_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Say hi."}],
            max_completion_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len({c.id for c in chunks}) == 1


def test_a_seed_gives_the_same_text_twice_and_is_told(server: RunningServer) -> None:
    wait_until(lambda: busy_slots(server) == 0)
    first = chat(server, seed=7, cache_prompt=False).json
    chat(server, "What else lies in the cache must not matter.", max_tokens=3)
    assert chat(server, seed=7, cache_prompt=False).json["choices"] == first["choices"]
    assert first["allod"]["seed"] == 7
    drawn = chat(server, cache_prompt=False).json
    again = chat(server, seed=drawn["allod"]["seed"], cache_prompt=False)
    assert again.json["choices"] == drawn["choices"]


def test_a_streamed_answer_tells_its_seed_and_equals_the_plain_one(server: RunningServer) -> None:
    asked = {"messages": user("Say hi."), "max_tokens": 12, "seed": 11, "cache_prompt": False}
    made = frames(server, CHAT, asked)
    assert made[0]["allod"]["seed"] == 11
    assert streamed_text(made) == post(server, CHAT, asked).text


@pytest.mark.parametrize("stream", [False, True])
def test_more_choices_than_slots_are_different_and_repeatable(server: RunningServer, stream: bool) -> None:
    def texts() -> list[str]:
        asked = {"messages": user("Tell a joke."), "max_tokens": 24, "n": 7, "seed": 3}
        if not stream:
            choices = post(server, CHAT, asked).json["choices"]
            return [choice["message"]["content"] for choice in choices]
        made: dict[int, str] = dict.fromkeys(range(7), "")
        for frame in frames(server, CHAT, asked):
            for choice in frame["choices"]:
                made[choice["index"]] += choice["delta"].get("content") or ""
        return list(made.values())

    wait_until(lambda: busy_slots(server) == 0)
    first = texts()
    assert len(first) == 7
    assert len(set(first)) >= 6  # chance may make two of them alike
    for words in (3, 40, 11):
        chat(server, "What else lies in the cache must not matter. " * words, max_tokens=words)
        assert texts() == first


def test_usage_counts_all_choices(server: RunningServer) -> None:
    usage = chat(server, n=6, max_tokens=5, logit_bias={"2": -100}).json["usage"]
    assert usage["completion_tokens"] == 30


def test_max_tokens_ends_with_length(server: RunningServer) -> None:
    reply = chat(server, "Write a long story.", max_tokens=5)
    assert reply.json["choices"][0]["finish_reason"] == "length"
    assert reply.json["usage"]["completion_tokens"] == 5


def test_a_last_assistant_message_is_continued(server: RunningServer) -> None:
    reply = post(server, CHAT, {"messages": COUNT, "max_tokens": 8, "temperature": 0})
    assert reply.text.startswith(" 6, 7")
    made = frames(server, CHAT, {"messages": COUNT, "max_tokens": 8, "temperature": 0})
    assert streamed_text(made) == reply.text


@pytest.mark.parametrize("stop", ["8", ["x", "8"]])
def test_stop_ends_before_the_word(server: RunningServer, stop: Any) -> None:
    reply = post(server, CHAT, {"messages": COUNT, "max_tokens": 30, "temperature": 0, "stop": stop})
    assert reply.text.strip().startswith("6, 7")
    assert "8" not in reply.text
    assert reply.json["choices"][0]["finish_reason"] == "stop"


def test_logit_bias_forces_a_token(server: RunningServer) -> None:
    assert set(chat(server, max_tokens=4, logit_bias={"28": 100}).text) == {","}


@pytest.mark.parametrize("top", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: RunningServer, top: int, stream: bool) -> None:
    asked = {
        "messages": user("Say hi."),
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": top,
    }
    if stream:
        choices = [choice for frame in frames(server, CHAT, asked) for choice in frame["choices"]]
        entries = [
            entry for choice in choices if choice.get("logprobs") for entry in choice["logprobs"]["content"]
        ]
    else:
        entries = post(server, CHAT, asked).json["choices"][0]["logprobs"]["content"]
    assert len(entries) == 4
    for entry in entries:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == top
        if top:  # at temperature 0 the likeliest is taken
            assert entry["top_logprobs"][0]["token"] == entry["token"]


def test_json_object_is_json(server: RunningServer) -> None:
    reply = chat(server, "A short JSON.", max_tokens=200, response_format={"type": "json_object"}, seed=1)
    if reply.json["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(reply.text), dict)
    else:
        assert reply.text.lstrip().startswith("{")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_a_json_schema_is_obeyed(server: RunningServer, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": SCHEMA}}
    reply = chat(server, "Describe a pet.", max_tokens=120, response_format=form, seed=seed, temperature=1.5)
    jsonschema.validate(json.loads(reply.text), SCHEMA)
    made = frames(
        server, CHAT, {"messages": user("A pet."), "max_tokens": 120, "response_format": form, "seed": seed}
    )
    jsonschema.validate(json.loads(streamed_text(made)), SCHEMA)


def test_a_grammar_is_obeyed(server: RunningServer) -> None:
    assert chat(server, grammar='root ::= "yes" | "no"').text in ("yes", "no")


@pytest.mark.parametrize(
    "field",
    [
        {"top_k": 1},
        {"min_p": 0.2, "typical_p": 0.9, "top_p": 0.5},
        {"dry_multiplier": 0.8, "dry_base": 1.5, "xtc_probability": 0.1, "xtc_threshold": 0.2},
        {"mirostat": 2, "mirostat_tau": 4.0},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repeat_penalty": 1.1},
        {"cache_prompt": False},
        {"samplers": ["top_k", "temperature"]},
        {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "store": False},
        {"keep_alive": "10m"},
        {"reasoning_effort": "none", "chat_template_kwargs": {"x": 1}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_field_is_taken(server: RunningServer, field: dict[str, Any]) -> None:
    reply = chat(server, max_tokens=2, **field)
    assert reply.status == 200, reply.body


def test_top_k_1_is_greedy(server: RunningServer) -> None:
    assert chat(server, top_k=1, seed=1).text == chat(server, top_k=1, seed=2).text


def test_prompt_progress_comes_only_when_asked_for(server: RunningServer) -> None:
    asked = {"messages": user("word " * 1200), "max_tokens": 2, "stream": True, "cache_prompt": False}
    with_progress = post(server, CHAT, {**asked, "return_progress": True}).body
    told = [frame["prompt_progress"] for frame in frames_in(with_progress) if "prompt_progress" in frame]
    assert [part["processed"] for part in told] == sorted(part["processed"] for part in told)
    assert told[-1]["total"] > 1200
    assert b"prompt_progress" not in post(server, CHAT, asked).body


def test_the_prompt_is_not_in_the_answers_head(server: RunningServer) -> None:
    """Nothing of the worker's own shape: no path, no engine name, no foreign fields in the error-free answer."""
    whole = chat(server).json
    assert set(whole) == {"id", "object", "created", "model", "choices", "usage", "timings", "allod"}
    assert ".gguf" not in json.dumps(whole)


def test_no_cors_and_no_caching(server: RunningServer) -> None:
    reply = request(server, "POST", CHAT, {"messages": user("hi"), "max_tokens": 1, "stream": True})
    assert reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers
    assert "server" not in reply.headers


def test_parts_of_text_are_one_text(server: RunningServer) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}]
    assert post(server, CHAT, {"messages": parts, "max_tokens": 4}).status == 200
