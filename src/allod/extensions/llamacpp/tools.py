"""Tools where the model's chat template knows none, and calls that must come: forced by a grammar, read back as calls.

The grammar comes from llama.cpp itself (its JSON-schema converter), so a call always fits the tool's schema.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from allod.sdk.chat import Message, text_of
from allod.sdk.errors import BadRequest
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, ToolCallDelta

Tool = Mapping[str, Any]

_HEAD = re.compile(r'^\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')


# llguidance's: else a small model may write white space without end. Others pass it over.
_TIGHT = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What the caller allows: no call, a free choice, or a call that must come; and which tools may be called."""

    mode: Literal["none", "auto", "required"]
    tools: Sequence[Tool]


def tool_choice(parameters: Mapping[str, Any]) -> ToolChoice:
    """Read `tools` and `tool_choice`. A named choice is a required one among a single tool.

    Raises BadRequest where a choice cannot be met.
    """
    tools: Sequence[Tool] = parameters.get("tools") or ()
    choice: Any = parameters.get("tool_choice") or ("auto" if tools else "none")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        named = [tool for tool in tools if tool["function"]["name"] == name]
        if not named:
            raise BadRequest(
                f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice"
            )
        return ToolChoice("required", named)
    if choice == "required" and not tools:
        raise BadRequest("tool_choice is 'required', but there are no tools.", param="tool_choice")
    return ToolChoice(choice if tools else "none", tools)


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """A JSON schema of one call of any of the tools: {"name": …, "arguments": {…}}. Raises BadRequest."""
    shared: dict[str, Any] = {}
    calls = [_one_call(tool["function"], shared) for tool in tools]
    return {"anyOf": calls, "x-guidance": _TIGHT} | ({"$defs": shared} if shared else {})


def _one_call(function: Mapping[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The schema of one tool's call. Its definitions go to `shared`, under its name: a $ref begins at the top."""
    arguments = dict(function.get("parameters") or {})
    if arguments.setdefault("type", "object") != "object":
        raise BadRequest(f"The parameters of the tool {function['name']!r} are no object.", param="tools")
    for place in ("$defs", "definitions"):
        own = arguments.pop(place, None)
        if isinstance(own, dict):
            moved = {name: f"{function['name']}.{name}" for name in own}
            arguments, own = (_pointed(part, place, moved) for part in (arguments, own))
            shared |= {moved[name]: schema for name, schema in own.items()}
    arguments.setdefault("properties", {})
    arguments.setdefault("additionalProperties", False)  # else a small model never stops inventing more
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _pointed(schema: Any, place: str, moved: Mapping[str, str]) -> Any:
    """`schema` with every $ref to a moved definition pointing at its new place."""
    if isinstance(schema, list):
        return [_pointed(part, place, moved) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _pointed(part, place, moved) for name, part in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(f"#/{place}/"):
        name, slash, rest = reference.removeprefix(f"#/{place}/").partition("/")
        changed["$ref"] = f"#/$defs/{moved.get(name, name)}{slash}{rest}"
    return changed


def free_choice(call_grammar: str) -> str:
    """A grammar that allows one call, or text that does not begin like one. In the call's own language.

    llama.cpp writes GBNF, or, where it was built with it, the Lark of https://github.com/guidance-ai/llguidance.
    """
    if call_grammar.startswith("%llguidance"):
        renamed = re.sub(r"^start:", "allod_call:", call_grammar, count=1, flags=re.MULTILINE)
        return f"{renamed}\nallod_text: /[^ \\t\\r\\n{{](.|\\n)*/\nstart: allod_call | allod_text\n"
    renamed = re.sub(r"^root ::=", "allod-call ::=", call_grammar, count=1, flags=re.MULTILINE)
    return f"{renamed}\nallod-text ::= [^ \\t\\r\\n{{] [^\\x00]*\nroot ::= allod-call | allod-text\n"


def with_tools_said(messages: Sequence[Message], choice: ToolChoice) -> list[Message]:
    """The messages for a template without tools: tools in the system text, earlier calls and results as plain text."""
    plain = [_plain(message) for message in messages]
    if choice.mode == "none":
        return plain
    said = _instructions(choice)
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{text_of(plain[0])}\n\n{said}"}, *plain[1:]]
    return [{"role": "system", "content": said}, *plain]


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the tool: {text_of(message)}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    said = "\n".join(
        f'{{"name": "{call["function"]["name"]}", "arguments": {call["function"]["arguments"]}}}'
        for call in calls
    )
    return {"role": "assistant", "content": f"{text_of(message)}\n{said}".strip()}


def _instructions(choice: ToolChoice) -> str:
    listed = "\n".join(orjson.dumps(tool["function"]).decode() for tool in choice.tools)
    how = '{"name": the tool\'s name, "arguments": an object that fits its parameters}'
    when = (
        "You must call one tool now."
        if choice.mode == "required"
        else "If a tool helps, call it; else just answer."
    )
    return (
        f"You can call these tools, each given as JSON:\n{listed}\n{when} To call one, write only JSON: {how}"
    )


class CallReader:
    """Turns one choice's text, as it comes, into a tool call's deltas, or leaves it as text."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._kind: Literal["", "text", "head", "arguments", "done"] = ""
        self._buffer = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def read(self, event: TextDelta) -> Iterator[ChatEvent]:
        """What this piece of text means."""
        if self._kind == "text":
            yield event
            return
        self._buffer += event.text
        if self._kind == "":
            begun = self._buffer.lstrip()
            if not begun:
                return
            self._kind = "head" if begun[0] == "{" else "text"
            if self._kind == "text":
                yield TextDelta(self._choice, self._buffer, event.logprobs)
                return
        if self._kind == "head":
            match = _HEAD.match(self._buffer)
            if match is None:
                return
            self._kind = "arguments"
            self._buffer = self._buffer[match.end() :]
            yield ToolCallDelta(self._choice, 0, f"call_{secrets.token_hex(12)}", orjson.loads(match[1]), "")
        if self._kind == "arguments" and self._buffer:
            text, self._buffer = self._buffer, ""
            arguments = self._take_arguments(text if self._depth else text.lstrip())
            if arguments:
                yield ToolCallDelta(self._choice, 0, None, None, arguments)

    def _take_arguments(self, text: str) -> str:
        """The part of `text` that belongs to the arguments' object: up to its last brace."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._kind = "done"
                    return text[: position + 1]
        return text

    def finish(self, event: ChoiceFinished) -> Iterator[ChatEvent]:
        """The choice has ended: a whole call is reported as tool_calls."""
        if self._kind == "done" and event.reason == "stop":
            yield ChoiceFinished(self._choice, "tool_calls")
            return
        was_text = self._kind == "" or (
            self._kind == "head" and event.reason == "stop"
        )  # else a call cut short
        if was_text and self._buffer:
            yield TextDelta(self._choice, self._buffer)
        yield event
