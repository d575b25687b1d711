"""Going on with half an answer where a chat template does not take one: by the prompt as it would be rendered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from allod.sdk.chat import ChatRequest, CompletionRequest, Purpose, text_of
from allod.sdk.context import Context
from allod.sdk.errors import AllodError, BadRequest, EngineFailed

_NOT_FOR_COMPLETIONS = ("tools", "tool_choice", "response_format", "parallel_tool_calls")


async def continued(
    context: Context[Any], request: ChatRequest, refused: AllodError, purpose: Purpose
) -> CompletionRequest:
    """The request that goes on, to the letter, with the last message of `request`, which must be an answer's beginning.

    Raises `refused` where that would not help.
    """
    if not isinstance(refused, (BadRequest, EngineFailed)) or request.messages[-1]["role"] != "assistant":
        raise refused
    before = replace(request, messages=request.messages[:-1])
    prompt = await context.models.apply_template(before, purpose)
    parameters = {
        name: value
        for name, value in request.parameters.items()
        if name not in _NOT_FOR_COMPLETIONS and not name.startswith(("reasoning", "chat_template"))
    }
    return CompletionRequest(
        model=request.model,
        prompt=prompt + text_of(request.messages[-1]),
        parameters=parameters,
        seed=request.seed,
        max_tokens=request.max_tokens,
        wants_progress=True,
    )
