"""What the model is told: within its context, by turns, and said in numbers and ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from allod.extensions.conversational.parts import Text
from allod.extensions.conversational.records import ContextPolicy, Message
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.runs import Asked, Begun
from allod.extensions.conversational.tree import grow
from allod.sdk.chat import ChatRequest, text_of
from tests.unit.conversational.talking import CONTEXT, Talk, talking

ANSWER_TOKENS = 50
BUDGET = CONTEXT - ANSWER_TOKENS


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with talking(tmp_path) as talk:
        yield talk


async def filled(talk: Talk, turns: int, words: int = 20, **fields: Any) -> str:
    """A thread of so many turns, whose questions and answers have so many words each."""
    thread = await talk.thread(parameters={"max_tokens": ANSWER_TOKENS}, **fields)

    def work(rows: Rows) -> None:
        made = rows.thread(thread)
        for number in range(turns):
            made, _ = grow(rows, made, made.active, "user", [Text(text=f"q{number} " * words)])
            made, _ = grow(rows, made, made.active, "assistant", [Text(text=f"a{number} " * words)])

    await talk.rooms.shelf.of(thread).write(work)
    return thread


def told(talk: Talk) -> list[str]:
    """The texts that the model was told the last time, each by its first word."""
    request = talk.script.heard[-1]
    assert isinstance(request, ChatRequest)
    return [text_of(message).split()[0] for message in request.messages]


async def seen(talk: Talk, answer: Message) -> dict[str, Any]:
    """What the record of its run says."""
    runs = [live for live in talk.rooms.runs._lives.values() if live.message.id == answer.id]
    record, _ = await talk.rooms.shelf.find_run(runs[-1].order.run)
    assert record.context is not None
    return dict(record.context)


async def test_all_of_it_is_told_where_it_fits(talk: Talk) -> None:
    thread = await filled(talk, 3)
    answer = await talk.answered(thread, "now this")
    assert told(talk)[1:] == ["q0", "a0", "q1", "a1", "q2", "a2", "now"]
    facts = await seen(talk, answer)
    page = (await talk.rooms.desk.open(thread)).page
    assert facts["messages"] == [message.id for message in page.messages[:-1]]
    assert (facts["left_out"], facts["context_tokens"]) == (0, CONTEXT)
    assert facts["tokens"]["budget"] == BUDGET
    assert facts["tokens"]["prompt"] == facts["tokens"]["system"] + 6 * 23 + 5
    assert facts["cached_tokens"] == 4


@pytest.mark.parametrize("memory_only", [False, True])
async def test_the_oldest_turns_are_left_out_in_one_large_step(talk: Talk, memory_only: bool) -> None:
    thread = await filled(talk, 60, memory_only=memory_only)
    cuts = []
    for number in range(12):
        answer = await talk.answered(thread, f"new{number} " * 20)
        facts = await seen(talk, answer)
        words = told(talk)
        assert facts["tokens"]["prompt"] <= BUDGET
        assert words[1].startswith(("q", "new"))  # a turn begins with its question
        assert words[-1] == f"new{number}"
        assert facts["left_out"] == 120 + 2 * number + 1 - len(facts["messages"])
        cuts.append(facts["messages"][0])
    assert len(set(cuts)) <= 2
    thread_now = await talk.rooms.desk.get(thread)
    assert thread_now.kept_from == cuts[-1]


async def test_pinned_messages_stay_wherever_they_are(talk: Talk) -> None:
    thread = await filled(talk, 200)
    first = (await talk.rooms.desk.open(thread, 1000)).page.messages[1]
    await talk.rooms.desk.pin(thread, first.id, pinned=True)
    facts = await seen(talk, await talk.answered(thread, "now this"))
    assert told(talk)[1:3] == ["q0", "a0"]
    assert first.id in facts["messages"]
    assert facts["tokens"]["prompt"] <= BUDGET


async def test_a_budget_of_the_thread_s_own(talk: Talk) -> None:
    thread = await filled(talk, 20, context=ContextPolicy(budget_tokens=300))
    facts = await seen(talk, await talk.answered(thread, "now this"))
    assert facts["tokens"]["budget"] == 300
    assert facts["tokens"]["prompt"] <= 300


async def test_the_user_may_be_asked_instead(talk: Talk) -> None:
    thread = await filled(talk, 60, context=ContextPolicy(strategy="refuse"))
    answer = await talk.answered(thread, "now this")
    assert answer.error is not None
    assert answer.error["code"] == "context_length_exceeded"
    assert talk.script.heard == []


async def test_what_cannot_fit_is_said_with_numbers(talk: Talk) -> None:
    thread = await talk.thread(parameters={"max_tokens": ANSWER_TOKENS})
    answer = await talk.answered(thread, "word " * 2000)
    assert answer.error is not None
    assert answer.error["code"] == "context_length_exceeded"
    assert str(BUDGET) in answer.error["detail"]
    assert talk.script.heard == []


async def test_a_summary_stands_before_what_is_told(talk: Talk) -> None:
    thread = await filled(talk, 60)
    await talk.rooms.desk.change(thread, summary="They spoke of 鹤.")
    facts = await seen(talk, await talk.answered(thread, "now this"))
    request = talk.script.heard[-1]
    assert isinstance(request, ChatRequest)
    assert "They spoke of 鹤." in text_of(request.messages[1])
    assert facts["has_summary"]


async def test_an_answer_that_is_gone_on_with_is_the_last_thing_told(talk: Talk) -> None:
    thread = await filled(talk, 60)
    talk.script.ends = "length"
    answer = await talk.answered(thread, "now this")
    again = await talk.rooms.runs.start(thread, Asked(continues=answer.id))
    assert isinstance(again, Begun)
    await talk.rooms.runs.wait(again.run)
    request = talk.script.heard[-1]
    assert isinstance(request, ChatRequest)
    assert request.messages[-1] == {"role": "assistant", "content": "well, hello"}
    assert (await seen(talk, answer))["messages"][-1] == answer.id
