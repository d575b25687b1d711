"""How an assistant's model chooses its words: every sampling field of a chat request, with its range.

Names are those of a request to /v1/chat/completions. Ranges are OpenAI's where it has the field, else llama.cpp's
(tools/server/server-schema.cpp). Fields that steer the machinery (`cache_prompt`, `n_keep`) or one answer only
(`logprobs`, `tool_choice`) are none of an assistant's.
"""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from allod.sdk.chat import MAX_SEED

_LARGEST = 2**31 - 1
_LONGEST_JSON = 100_000


def _kept(value: dict[str, Any]) -> dict[str, Any]:
    """An object that can be written as JSON again."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # NaN, half a character, or too deep
        raise PydanticCustomError("not_json", "Input should be an object of plain JSON") from None
    if len(written) > _LONGEST_JSON:
        raise PydanticCustomError("too_long", "Input should have at most 100 kB as JSON")
    return value


def _listed(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


_Share = Annotated[float, Field(ge=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_NotNegative = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=0, le=_LARGEST)]
_Object = Annotated[dict[str, Any], AfterValidator(_kept)]
_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Texts = Annotated[list[_Text], Field(max_length=16), BeforeValidator(_listed)]


class AssistantParameters(BaseModel):
    """Sampling parameters. What is left out is for the model and its engine to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: Annotated[float, Field(ge=0, le=2, description="0: always the likeliest word.")] | None = (
        None
    )
    top_k: Annotated[_Count, Field(description="Only the k likeliest words. 0: all.")] | None = None
    top_p: (
        Annotated[
            _Share, Field(description="Only the likeliest words that together have this share. 1: all.")
        ]
        | None
    ) = None
    min_p: (
        Annotated[_Share, Field(description="Only words at least this likely beside the likeliest. 0: all.")]
        | None
    ) = None
    top_n_sigma: float | None = None
    typical_p: _Share | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: _Share | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=2)] | None = None
    dynatemp_exponent: _NotNegative | None = None
    repeat_last_n: _Count | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    dry_multiplier: _NotNegative | None = None
    dry_base: Annotated[float, Field(ge=1)] | None = None
    dry_allowed_length: _Count | None = None
    dry_penalty_last_n: _Count | None = None
    dry_sequence_breakers: Annotated[_Texts, Field(min_length=1)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: _NotNegative | None = None
    mirostat_eta: _NotNegative | None = None
    adaptive_target: Annotated[float, Field(ge=-1, le=1)] | None = None
    adaptive_decay: Annotated[float, Field(ge=0, le=0.99)] | None = None
    samplers: _Texts | None = None
    min_keep: _Count | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1000)] | None
    ) = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=0, lt=MAX_SEED)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_LARGEST)] | None = None
    stop: _Texts | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=_LONGEST_JSON)] | None = None
    json_schema: _Object | None = None
    reasoning_effort: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")] | None = None
    reasoning_budget_tokens: Annotated[int, Field(ge=-1, le=_LARGEST)] | None = None
    chat_template_kwargs: _Object | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Refuse what there is not, by its name and the nearest one that there is."""
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                near = difflib.get_close_matches(str(name), cls.model_fields, 1)
                nearest = f"; the nearest is {near[0]!r}" if near else ""
                said = ascii(str(name)[:60])
                raise PydanticCustomError(
                    "unknown_parameter",
                    "no parameter is called {said}{nearest}",
                    {"said": said, "nearest": nearest},
                )
        return given

    @model_validator(mode="after")
    def _one_form(self) -> AssistantParameters:
        if self.grammar is not None and self.json_schema is not None:
            raise PydanticCustomError("two_forms", "only one of 'grammar' and 'json_schema' can be set")
        return self

    @model_serializer(mode="wrap")
    def _what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}
