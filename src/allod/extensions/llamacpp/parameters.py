"""Which fields of a request llama.cpp honours, and under what name. A field in neither list is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allod.sdk.chat import ChatRequest, GenerateRequest
from allod.sdk.engine import ModelCard
from allod.sdk.errors import BadRequest, UnsupportedParameter

# llama.cpp's own (tools/server/server-schema.cpp), passed on as they are; it checks their types and ranges.
_NATIVE = frozenset(
    "temperature top_k top_p min_p top_n_sigma typical_p xtc_probability xtc_threshold dynatemp_range dynatemp_exponent"
    " repeat_last_n repeat_penalty frequency_penalty presence_penalty dry_multiplier dry_base dry_allowed_length"
    " dry_penalty_last_n dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay"
    " samplers min_keep logit_bias ignore_eos stop grammar json_schema cache_prompt n_keep n_cache_reuse n_indent"
    " t_max_predict_ms timings_per_token return_tokens".split()
)
_NATIVE_CHAT = frozenset(
    "response_format logprobs top_logprobs chat_template_kwargs reasoning_format reasoning_budget_tokens"
    " thinking_budget_tokens reasoning_budget_message reasoning_control add_generation_prompt continue_final_message"
    " stream_options tools tool_choice parallel_tool_calls reasoning_effort".split()
)
# What says something about the caller or asks for nothing that changes the answer.
_WITHOUT_EFFECT = frozenset(
    "user metadata safety_identifier prompt_cache_key prompt_cache_retention prediction service_tier".split()
)
# Fields of OpenAI's that hold for one value only: asking for any other is refused.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "store": (None, False),
    "modalities": (None, ["text"]),
    "verbosity": (None, "medium"),
    "best_of": (None, 1),
}


_KINDS: tuple[tuple[str, type[str] | type[dict[str, Any]] | type[list[Any]], str], ...] = (
    ("grammar", str, "text"),
    ("json_schema", dict, "an object"),
    ("chat_template_kwargs", dict, "an object"),
    ("samplers", list, "a list of names"),
)
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "mirostat": (0, 1, 2),
    "reasoning_format": ("none", "auto", "deepseek", "deepseek-legacy"),
}


def engine_parameters(request: GenerateRequest, card: ModelCard) -> dict[str, Any]:
    """The request's parameters in the worker's form, without prompt or messages.

    Raises UnsupportedParameter for a field that this model cannot honour.
    """
    native = _NATIVE | _NATIVE_CHAT if isinstance(request, ChatRequest) else _NATIVE
    body: dict[str, Any] = {}
    for name, value in request.parameters.items():
        if value is None or name in _WITHOUT_EFFECT:
            continue
        if name in _FIXED:
            _check_fixed(name, value)
        elif name in native:
            body[name] = value
        else:
            raise UnsupportedParameter(
                f"{card.id!r} does not know the field {name[:60]!r}.", fix="Leave it out.", param=name[:60]
            )
    _check_effort(body, card)
    _check_values(body)
    body["stream"] = True
    body["return_progress"] = True
    body["seed"] = request.seed
    if request.choices > 1:
        body["n"] = request.choices
        body.setdefault("cache_prompt", False)  # Worker.stream makes the choices of a seed repeatable
    if request.max_tokens is not None:
        body["n_predict"] = request.max_tokens
    return body


def _check_values(body: Mapping[str, Any]) -> None:
    """What llama.cpp would pass over in silence, or blame on something else."""
    for name, kind, meaning in _KINDS:
        if not isinstance(body.get(name, kind()), kind):
            raise BadRequest(f"{name}: must be {meaning}.", param=name)
    for name, allowed in _CHOICES.items():
        if name in body and body[name] not in allowed:
            raise BadRequest(f"{name}: must be one of {', '.join(map(str, allowed))}.", param=name)


def _check_fixed(name: str, value: Any) -> None:
    if value not in _FIXED[name]:
        allowed = _FIXED[name][-1]
        raise UnsupportedParameter(f"{name!r} can only be {allowed!r} here.", fix="Leave it out.", param=name)


def _check_effort(body: dict[str, Any], card: ModelCard) -> None:
    effort = body.get("reasoning_effort")
    if effort not in (None, "none", "minimal") and "reasoning" not in card.capabilities:
        raise UnsupportedParameter(
            f"{card.id!r} is no thinking model, so it has no reasoning effort.",
            fix="Leave it out, or set it to 'none'.",
            param="reasoning_effort",
        )
    if effort == "minimal":
        body["reasoning_effort"] = "none"
