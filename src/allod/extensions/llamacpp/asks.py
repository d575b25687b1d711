"""What to ask a worker for each kind of request: the route, the body, and how to read what comes back."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import orjson

from allod.extensions.llamacpp.echo import prompt_logprobs
from allod.extensions.llamacpp.parameters import engine_parameters
from allod.extensions.llamacpp.streams import Ask, EchoStream, WorkerStream, ask_json, reading_calls
from allod.extensions.llamacpp.tools import ToolChoice, call_schema, free_choice, tool_choice, with_tools_said
from allod.extensions.llamacpp.wire import chat_events, completion_events
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.chat import ChatRequest, CompletionRequest, Message
from allod.sdk.engine import ModelCard
from allod.sdk.errors import BadRequest, EngineFailed, UnsupportedParameter
from allod.sdk.stream import ChatEvent, ChatStream, TextDelta

GetWorker = Callable[[], Worker]
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_TEMPLATE_FIELDS = (
    "chat_template_kwargs",
    "reasoning_effort",
    "add_generation_prompt",
    "continue_final_message",
)


def chat_stream(request: ChatRequest, card: ModelCard, worker: GetWorker) -> ChatStream:
    """An answer to a conversation."""
    if "chat" not in card.capabilities:
        raise UnsupportedParameter(f"{card.id!r} cannot chat.", fix="Choose a chat model.", param="model")
    choice = tool_choice(request.parameters)
    body = engine_parameters(request, card)
    wants_logprobs = bool(body.get("logprobs"))
    if wants_logprobs and choice.mode != "none":
        raise UnsupportedParameter("Log-probabilities and tools do not go together.", param="logprobs")
    if wants_logprobs:
        body["top_logprobs"] = max(1, body.get("top_logprobs") or 0)  # 0 would switch them off
    template = template_input(request, card)
    body = template | {name: value for name, value in body.items() if name not in _TOOL_FIELDS}
    if choice.mode == "required" or (choice.mode == "auto" and "tools" not in card.capabilities):
        return _with_our_grammar(template, body, choice, worker)

    async def ask(_: Worker) -> Ask:
        return Ask("/v1/chat/completions", body, chat_events)

    wire: Literal["openai.chat"] | None = None if wants_logprobs else "openai.chat"
    return WorkerStream(worker, ask, wire=wire, wants_progress=request.wants_progress)


def template_input(request: ChatRequest, card: ModelCard) -> dict[str, Any]:
    """What the model's chat template is given: messages and, where it knows them, tools.

    Raises BadRequest where the model cannot read a message, or a choice of tools cannot be met.
    """
    choice = tool_choice(request.parameters)
    messages = [_checked(message, number, card) for number, message in enumerate(request.messages)]
    given = {name: request.parameters[name] for name in _TEMPLATE_FIELDS if name in request.parameters}
    if "tools" not in card.capabilities:
        return {**given, "messages": with_tools_said(messages, choice)}
    if choice.mode == "none":
        return {**given, "messages": messages}
    parallel = request.parameters.get("parallel_tool_calls")
    return {
        **given,
        "messages": messages,
        "tools": choice.tools,
        "tool_choice": choice.mode,
        "parallel_tool_calls": True if parallel is None else parallel,
    }


def shows_images(request: ChatRequest) -> bool:
    """Whether a message has an image."""
    contents = [message.get("content") for message in request.messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(part.get("type") == "image_url" for part in parts)


def _checked(message: Message, number: int, card: ModelCard) -> Message:
    """A message in the form that templates know; images only where the model can see."""
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type")
            if kind == "image_url" and "vision" not in card.capabilities:
                raise UnsupportedParameter(
                    f"{card.id!r} cannot see images.",
                    fix="Choose a vision model.",
                    param=f"messages[{number}].content",
                )
            if kind not in ("text", "image_url"):
                raise UnsupportedParameter(
                    f"{card.id!r} cannot read parts of type {kind!r}.", param=f"messages[{number}].content"
                )
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _with_our_grammar(
    template: dict[str, Any], body: dict[str, Any], choice: ToolChoice, worker: GetWorker
) -> ChatStream:
    """A call in our own form: see tools.py.

    Also for templates that know tools where a call must come: llama.cpp's own grammar lets them talk before, for ever.
    """
    for other in ("response_format", "grammar", "json_schema"):
        if other in body:
            raise UnsupportedParameter(f"This model cannot follow tools and {other} at once.", param=other)
    sampling = {name: value for name, value in body.items() if name not in (*template, "stream_options")}
    if choice.mode == "required":
        sampling.pop("stop", None)  # the grammar says where the call ends
    thinking = template.get("chat_template_kwargs") or {}
    template = {**template, "chat_template_kwargs": {"enable_thinking": False, **thinking}}

    async def ask(worker: Worker) -> Ask:
        prompt = (await ask_json(worker, "/apply-template", template))["prompt"]
        grammar = await _grammar(worker, call_schema(choice.tools))
        if choice.mode == "auto":
            grammar = free_choice(grammar)
        return Ask(
            "/completion",
            {**sampling, "prompt": prompt, "grammar": grammar},
            reading_calls(completion_events),
        )

    return WorkerStream(worker, ask, wire=None)


async def _grammar(worker: Worker, schema: dict[str, Any]) -> str:
    """llama.cpp's own grammar for a JSON schema: it tells it among the settings of a completion."""
    body = {"prompt": [0], "n_predict": 0, "json_schema": schema, "cache_prompt": False}
    reply = await worker.http.request("POST", "/completion", body)
    if reply.status != 200:
        raise BadRequest(
            "The parameters of a tool are no JSON schema that llama.cpp can follow.",
            fix="It supports a subset of JSON Schema: objects, arrays, strings, numbers, enum, const, anyOf, $ref.",
            param="tools",
        )
    grammar = orjson.loads(reply.body)["generation_settings"]["grammar"]
    if not isinstance(grammar, str) or not grammar:
        raise EngineFailed("The engine gave no grammar for the tools.")
    return grammar


def completion_stream(request: CompletionRequest, card: ModelCard, worker: GetWorker) -> ChatStream:
    """A raw continuation, the text between two others, or a prompt's own log-probabilities."""
    if "completion" not in card.capabilities:
        raise UnsupportedParameter(
            f"{card.id!r} cannot continue text.", fix="Choose another model.", param="model"
        )
    body = engine_parameters(request, card)
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)
    if request.suffix is not None:
        return _infill(request, card, body, worker)

    async def ask(_: Worker) -> Ask:
        return Ask("/completion", {**body, "prompt": request.prompt}, completion_events)

    answer = WorkerStream(worker, ask, wire=None)
    if not request.echo:
        return answer
    return EchoStream(worker, _echo(request), answer if request.max_tokens != 0 else None, request.choices)


def _infill(
    request: CompletionRequest, card: ModelCard, body: dict[str, Any], worker: GetWorker
) -> ChatStream:
    if "infill" not in card.capabilities:
        raise UnsupportedParameter(
            f"{card.id!r} cannot fill in text.",
            fix="Choose a model trained for it, or leave suffix out.",
            param="suffix",
        )
    if not isinstance(request.prompt, str) or request.echo:
        raise BadRequest("With suffix, the prompt must be text, and echo is not possible.", param="suffix")

    async def ask(_: Worker) -> Ask:
        asked = {**body, "input_prefix": request.prompt, "input_suffix": request.suffix}
        return Ask("/infill", asked, completion_events)

    return WorkerStream(worker, ask, wire=None)


def _echo(request: CompletionRequest) -> Callable[[Worker], Awaitable[tuple[Sequence[ChatEvent], int]]]:
    async def prompt(worker: Worker) -> tuple[Sequence[ChatEvent], int]:
        ids, pieces = await prompt_tokens(worker, request.prompt)
        if request.logprobs is None:
            return [TextDelta(0, b"".join(pieces).decode(errors="replace"))], len(ids)
        steps = await prompt_logprobs(worker.http, worker.model, ids, pieces, request.logprobs)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return [TextDelta(0, decoder.decode(bytes(step["bytes"])), [step]) for step in steps], len(ids)

    return prompt


async def prompt_tokens(worker: Worker, prompt: str | Sequence[int]) -> tuple[list[int], list[bytes]]:
    """Ids and pieces of a prompt as the worker reads it, with the marks that it begins with."""
    if isinstance(prompt, str):
        asked = {"content": prompt, "add_special": True, "parse_special": True, "with_pieces": True}
        tokens = (await ask_json(worker, "/tokenize", asked))["tokens"]
        pieces = [token["piece"] for token in tokens]
        ids = [token["id"] for token in tokens]
        return ids, [piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces]
    return list(prompt), [(await detokenized(worker, [token])).encode() for token in prompt]


async def detokenized(worker: Worker, ids: Sequence[int]) -> str:
    """The text of token ids."""
    content: str = (await ask_json(worker, "/detokenize", {"tokens": list(ids)}))["content"]
    return content
