"""Calls where the template knows no tools: what is asked of the model, and how its text is read back as a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.llamacpp.tools import (
    CallReader,
    ToolChoice,
    call_schema,
    free_choice,
    tool_choice,
    with_tools_said,
)
from allod.sdk.errors import BadRequest
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, ToolCallDelta


def tool(name: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = tool(
    "weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
TIME = tool("time")


# what may be called


@pytest.mark.parametrize(
    ("parameters", "mode"),
    [
        ({}, "none"),
        ({"tools": []}, "none"),
        ({"tools": [WEATHER]}, "auto"),
        ({"tools": [WEATHER], "tool_choice": None}, "auto"),
        ({"tools": [WEATHER], "tool_choice": "none"}, "none"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "required"),
        ({"tool_choice": "auto"}, "none"),
    ],
)
def test_the_choice_is_read_with_its_default(parameters: dict[str, Any], mode: str) -> None:
    assert tool_choice(parameters).mode == mode


def test_a_named_tool_is_the_only_one_and_must_be_called() -> None:
    named = {"type": "function", "function": {"name": "time"}}
    assert tool_choice({"tools": [WEATHER, TIME], "tool_choice": named}) == ToolChoice("required", [TIME])


@pytest.mark.parametrize(
    "parameters",
    [
        {"tool_choice": "required"},
        {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        tool_choice(parameters)
    assert caught.value.param == "tool_choice"


# the schema of a call


@pytest.mark.parametrize(
    ("call", "is_valid"),
    [
        ({"name": "weather", "arguments": {"city": "Xi'an"}}, True),
        ({"name": "time", "arguments": {}}, True),
        ({"name": "weather", "arguments": {}}, False),
        ({"name": "weather", "arguments": {"city": "Xi'an", "more": 1}}, False),
        ({"name": "time", "arguments": {"city": "Xi'an"}}, False),
        ({"name": "other", "arguments": {}}, False),
        ({"name": "time"}, False),
        ({"name": "time", "arguments": {}, "more": 1}, False),
    ],
)
def test_a_call_fits_the_schema_exactly_when_it_fits_its_tool(call: object, is_valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(call_schema([WEATHER, TIME]))
    assert validator.is_valid(call) is is_valid


def test_a_tool_may_allow_more_properties_itself() -> None:
    schema = call_schema([tool("any", {"type": "object", "additionalProperties": True})])
    jsonschema.validate({"name": "any", "arguments": {"x": 1}}, schema)


def test_the_caller_s_tools_are_left_as_they_are() -> None:
    before = json.dumps([WEATHER, TIME])
    call_schema([WEATHER, TIME])
    assert json.dumps([WEATHER, TIME]) == before


def test_parameters_that_are_no_object_are_refused() -> None:
    with pytest.raises(BadRequest, match="'odd' are no object") as caught:
        call_schema([tool("odd", {"type": "string"})])
    assert caught.value.param == "tools"


def test_a_free_choice_in_gbnf_begins_anew_and_keeps_the_call() -> None:
    grammar = free_choice('root ::= "{" name "}"\nname ::= "root ::= x"\n')
    lines = grammar.strip().splitlines()
    assert lines[0] == 'allod-call ::= "{" name "}"'
    assert lines[1] == 'name ::= "root ::= x"'
    assert lines[-1] == "root ::= allod-call | allod-text"


def test_a_free_choice_in_lark_begins_anew_and_keeps_the_call() -> None:
    lines = free_choice("%llguidance {}\nstart: %json {}\n").strip().splitlines()
    assert lines[:2] == ["%llguidance {}", "allod_call: %json {}"]
    assert lines[-1] == "start: allod_call | allod_text"


# the prompt


def test_tools_are_said_behind_the_system_text() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    system, user = with_tools_said(messages, ToolChoice("auto", [WEATHER]))
    assert system["content"].startswith("Be brief.\n\n")
    assert '"name":"weather"' in system["content"]
    assert "If a tool helps" in system["content"]
    assert user == messages[1]


def test_tools_are_said_first_where_there_is_no_system_text() -> None:
    system, user = with_tools_said([{"role": "user", "content": "Hi"}], ToolChoice("required", [TIME]))
    assert (system["role"], user["role"]) == ("system", "user")
    assert "You must call one tool now." in system["content"]


def test_earlier_calls_and_results_are_plain_text_even_where_no_call_is_allowed() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "time", "arguments": '{"zone": "UTC"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "12:00"},
    ]
    assert with_tools_said(messages, ToolChoice("none", [])) == [
        {"role": "assistant", "content": '{"name": "time", "arguments": {"zone": "UTC"}}'},
        {"role": "user", "content": "Result of the tool: 12:00"},
    ]


# reading it back


def events_of(pieces: Sequence[str], reason: str = "stop") -> list[ChatEvent]:
    reader = CallReader(3)
    found = [event for piece in pieces for event in reader.read(TextDelta(3, piece))]
    return [*found, *reader.finish(ChoiceFinished(3, reason))]  # type: ignore[arg-type]


def pieces_of(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(['"', "\\", "}", '{"', "]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_arguments = st.dictionaries(st.text(max_size=6), _json, max_size=4)
_spaces = st.sampled_from(["", " ", "\n", "  "])
_cuts = st.lists(st.integers(0, 500), max_size=40)


@given(
    st.text(min_size=1, max_size=12),
    _arguments,
    st.booleans(),
    st.lists(_spaces, min_size=6, max_size=6),
    _cuts,
)
def test_a_call_is_read_however_its_text_is_cut(
    name: str, arguments: dict[str, Any], is_ascii: bool, space: list[str], cuts: list[int]
) -> None:
    written = json.dumps(arguments, ensure_ascii=is_ascii)
    said = json.dumps(name, ensure_ascii=is_ascii)
    text = (
        f'{space[0]}{{"name":{space[1]}{said}{space[2]},"arguments"{space[3]}:{space[4]}{written}{space[5]}}}'
    )
    first, *rest, last = events_of(pieces_of(text, cuts))

    assert isinstance(first, ToolCallDelta)
    assert (first.choice, first.index, first.name, first.arguments) == (3, 0, name, "")
    assert first.id is not None and first.id.startswith("call_")
    assert all(isinstance(e, ToolCallDelta) and (e.id, e.name) == (None, None) for e in rest)
    assert "".join(e.arguments for e in rest if isinstance(e, ToolCallDelta)) == written
    assert last == ChoiceFinished(3, "tool_calls")


@given(st.text(min_size=1).filter(lambda text: text.strip() and text.strip()[0] != "{"), _cuts)
def test_other_text_stays_text_however_it_is_cut(text: str, cuts: list[int]) -> None:
    *deltas, last = events_of(pieces_of(text, cuts))
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == text
    assert last == ChoiceFinished(3, "stop")


@given(st.text(max_size=30), _cuts)
def test_what_only_begins_like_a_call_comes_out_as_text_at_the_end(rest: str, cuts: list[int]) -> None:
    text = '{"nam": ' + rest
    *deltas, last = events_of(pieces_of(text, cuts))
    assert deltas == [TextDelta(3, text)]
    assert last == ChoiceFinished(3, "stop")


def test_a_call_that_was_cut_off_is_no_whole_call() -> None:
    events = events_of(['{"name": "time", "arguments": {"zone": "U'], reason="length")
    assert events[-1] == ChoiceFinished(3, "length")
    assert "".join(e.arguments for e in events if isinstance(e, ToolCallDelta)) == '{"zone": "U'


def test_two_calls_have_two_ids() -> None:
    text = '{"name": "time", "arguments": {}}'
    one, two = events_of([text])[0], events_of([text])[0]
    assert isinstance(one, ToolCallDelta) and isinstance(two, ToolCallDelta)
    assert one.id != two.id
