"""Steps become the frames that llama-server writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allod.extensions.llamacpp.wire import UsageCounter, chat_events, completion_events, frames_of
from allod.sdk.stream import ChoiceFinished, Progress, ReasoningDelta, TextDelta, ToolCallDelta
from allod.testing.scripted_steps import Answer, Step, chosen


def played(*steps: Step, include_usage: bool = False) -> bytes:
    actions = Answer("chat", "m", 5, include_usage=include_usage).actions(steps)
    return b"".join(action for action in actions if isinstance(action, bytes))


def events(*steps: Step) -> list[Any]:
    return [event for frame in frames_of(played(*steps)) for event in chat_events(frame)]


def test_each_kind_of_piece_is_read_back_as_what_it_is() -> None:
    call = {"name": "look", "arguments": '{"at": 1}'}
    assert events(
        {"progress": [2, 5]}, {"reasoning": "Hm."}, "Hi.", {"call": call}, {"finish": "length"}
    ) == [
        Progress(5, 0, 2, 2),
        ReasoningDelta(0, "Hm."),
        TextDelta(0, "Hi.", None),
        ToolCallDelta(0, 0, "call_1", "look", '{"at'),
        ToolCallDelta(0, 0, None, None, '": 1}'),
        ChoiceFinished(0, "length"),
    ]


def test_an_answer_ends_in_order_unless_a_step_ends_it() -> None:
    whole = played("Hi.")
    assert whole.endswith(b"data: [DONE]\n\n")
    counter = UsageCounter()
    counter.look_at(whole)
    assert counter.usage is not None
    assert (counter.usage.prompt_tokens, counter.usage.completion_tokens) == (5, 1)
    for end in ({"do": "end"}, {"do": "die"}, {"error": {"code": 500}}):
        assert b"[DONE]" not in played("Hi.", end)


def test_usage_is_told_where_it_is_asked_for() -> None:
    assert all(b'"usage"' not in line for line in played("Hi.").split(b"\n"))
    last = [json.loads(line[6:]) for line in played("Hi.", include_usage=True).split(b"\n") if b"{" in line][
        -1
    ]
    assert last["usage"] == {"completion_tokens": 1, "prompt_tokens": 5, "total_tokens": 6}


def test_what_is_not_waited_between_is_sent_together() -> None:
    actions = Answer("chat", "m", 0).actions(["a", "b", {"wait_s": 1}, {"repeat": 2, "steps": ["c"]}])
    assert [type(action) for action in actions] == [bytes, float, bytes]


def test_a_completion_has_its_own_form() -> None:
    (actions,) = Answer("completion", "m", 3).actions(["Hi.", {"finish": "length"}])
    assert isinstance(actions, bytes)
    read = [event for frame in frames_of(actions) for event in completion_events(frame)]
    assert read == [TextDelta(0, "Hi.", None), ChoiceFinished(0, "length")]


def test_a_step_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="txet"):
        events({"txet": "Hi."})


def test_the_longest_name_that_the_question_ends_with_is_chosen() -> None:
    answers: dict[str, list[Step]] = {"cut": ["1"], "a clean cut": ["2"], "*": ["3"]}
    assert chosen(answers, "please, a clean cut") == ["2"]
    assert chosen(answers, "cut") == ["1"]
    assert chosen(answers, "other") == ["3"]
    assert chosen({}, "other")
