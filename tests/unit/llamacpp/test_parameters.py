"""Every field of a request is passed on, answered for, or refused by its name: none is silently ignored."""

from __future__ import annotations

from typing import Any

import pytest

from allod.extensions.llamacpp.parameters import engine_parameters
from allod.sdk.chat import ChatRequest, CompletionRequest, GenerateRequest
from allod.sdk.engine import ModelCard, ModelId
from allod.sdk.errors import BadRequest, UnsupportedParameter

CARD = ModelCard(ModelId("m"), "llamacpp", "m", context_tokens=100, size_bytes=1)
THINKING = ModelCard(
    ModelId("m"), "llamacpp", "m", context_tokens=100, size_bytes=1, capabilities=("chat", "reasoning")
)


def chat(**parameters: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=[], parameters=parameters, seed=7)


def completion(**parameters: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt="", parameters=parameters, seed=7)


def passed(request: GenerateRequest, card: ModelCard = CARD) -> dict[str, Any]:
    """What reaches the worker beside what always does."""
    body = engine_parameters(request, card)
    always = {"stream": True, "return_progress": True, "seed": 7}
    assert body.items() >= always.items()
    return {name: value for name, value in body.items() if name not in always}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("top_p", 0.5),
        ("stop", ["\n"]),
        ("logit_bias", {"5": -1}),
        ("frequency_penalty", 1),
        ("presence_penalty", 1),
        ("top_k", 1),
        ("min_p", 0.1),
        ("typical_p", 0.9),
        ("dry_multiplier", 1.5),
        ("xtc_probability", 0.5),
        ("mirostat", 2),
        ("grammar", "root ::= [a-z]"),
        ("cache_prompt", False),
    ],
)
def test_fields_of_llama_cpp_s_are_passed_as_they_are(name: str, value: object) -> None:
    assert passed(chat(**{name: value})) == passed(completion(**{name: value})) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "text"}),
        ("logprobs", True),
        ("top_logprobs", 1),
        ("chat_template_kwargs", {"a": 1}),
        ("reasoning_format", "none"),
        ("tools", []),
    ],
)
def test_fields_of_a_chat_are_passed_for_a_chat_and_refused_for_a_raw_text(name: str, value: Any) -> None:
    assert passed(chat(**{name: value})) == {name: value}
    with pytest.raises(UnsupportedParameter):
        passed(completion(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grammar", 5),
        ("json_schema", 5),
        ("chat_template_kwargs", "x"),
        ("samplers", "top_k"),
        ("mirostat", 5),
        ("reasoning_format", "zz"),
    ],
)
def test_what_llama_cpp_would_pass_over_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        passed(chat(**{name: value}))
    assert caught.value.param == name


@pytest.mark.parametrize(
    "name", ["user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"]
)
def test_what_says_something_of_the_caller_stays_here(name: str) -> None:
    assert passed(chat(**{name: "a name"})) == {}


@pytest.mark.parametrize(
    "name", ["temprature", "audio", "web_search_options", "functions", "n_predict", "n_probs"]
)
def test_a_field_that_is_not_known_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        passed(chat(**{name: 1}))
    assert caught.value.param == name


def test_a_field_without_a_value_was_not_given() -> None:
    assert passed(chat(temperature=None, temprature=None)) == {}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("store", False, True),
        ("modalities", ["text"], ["text", "audio"]),
        ("verbosity", "medium", "low"),
        ("best_of", 1, 2),
    ],
)
def test_a_field_that_holds_for_one_value_is_refused_for_others(name: str, good: object, bad: object) -> None:
    assert passed(chat(**{name: good})) == {}
    with pytest.raises(UnsupportedParameter, match=f"can only be {good!r}".replace("[", r"\[")) as caught:
        passed(chat(**{name: bad}))
    assert caught.value.param == name


@pytest.mark.parametrize("value", [3, -1, "2", [1]])
def test_a_mirostat_that_does_not_exist_is_refused(value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        passed(chat(mirostat=value))
    assert caught.value.param == "mirostat"


def test_only_a_thinking_model_has_an_effort() -> None:
    assert passed(chat(reasoning_effort="high"), THINKING) == {"reasoning_effort": "high"}
    with pytest.raises(UnsupportedParameter) as caught:
        passed(chat(reasoning_effort="high"))
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize("effort", ["none", "minimal"])
def test_no_effort_is_possible_for_every_model(effort: str) -> None:
    assert passed(chat(reasoning_effort=effort)) == {"reasoning_effort": "none"}


def test_choices_and_length_get_llama_cpp_s_names() -> None:
    request = ChatRequest(model="m", messages=[], choices=3, max_tokens=0, seed=7)
    assert passed(request) == {"n": 3, "n_predict": 0, "cache_prompt": False}
    assert passed(chat()) == {}
