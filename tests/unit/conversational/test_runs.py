"""Runs: they live whoever listens, are kept as they go, wait in line, stop, and are gone on with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from allod.extensions.conversational.parts import Text, text_of
from allod.extensions.conversational.records import Message
from allod.extensions.conversational.runs import Asked, Begun
from allod.extensions.conversational.store.search import Filters, search
from allod.sdk.chat import ChatRequest, CompletionRequest
from allod.sdk.errors import BadRequest, Conflict, EngineFailed, NotFound
from tests.unit.conversational.talking import Talk, read, talking


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with talking(tmp_path) as talk:
        yield talk


@pytest.fixture(params=[False, True], ids=["kept", "memory-only"])
def memory_only(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def until(talk: Talk, words: int) -> None:
    """Wait until the model has said so many words."""
    async with asyncio.timeout(10):
        while talk.script.said < words:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def all_answered(talk: Talk, thread: str, messages: int) -> None:
    """Wait until the thread has so many messages, and nothing is written any more."""
    async with asyncio.timeout(20):
        while len(await talk.texts(thread)) < messages or not talk.rooms.runs.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_question_is_answered_and_all_of_it_is_kept(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    begun = await talk.ask(thread, "who are you?", parameters={"temperature": 0.5, "seed": 7})
    assert await talk.message(thread, begun.answer.id)  # kept before it is answered
    said = await talk.follow(begun.run)
    assert [each[0] for each in said] == list(range(1, len(said) + 1))
    assert [event for _, event, _ in said] == ["state", "context", "state", "state", "text", "text", "ended"]
    assert [data["state"] for _, event, data in said if event == "state"] == ["queued", "reading", "writing"]
    await talk.rooms.runs.wait(begun.run)
    answer = await talk.message(thread, begun.answer.id)
    assert said[-1][2]["message"]["parts"] == [{"type": "text", "text": "well, hello"}]
    assert (text_of(answer.parts), answer.status) == ("well, hello", "done")
    assert (answer.model, answer.seed, answer.assistant_version) == ("teller", 7, 1)
    assert answer.parameters["temperature"] == 0.5
    assert answer.usage == {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4}
    assert answer.timings["first_token_s"] <= answer.timings["total_s"]
    assert await talk.texts(thread) == ["who are you?", "well, hello"]
    (heard,) = talk.script.heard
    assert isinstance(heard, ChatRequest)
    assert [message["role"] for message in heard.messages] == ["system", "user"]


async def test_it_goes_on_when_nobody_listens_and_any_reader_gets_all_of_it(talk: Talk) -> None:
    talk.script.words = [f"w{number} " for number in range(300)]
    thread = await talk.thread()
    begun = await talk.ask(thread)
    wanted = "".join(talk.script.words)

    async def reader(seed: int) -> str:
        """Reads a piece, drops the connection, comes back with the last id it has."""
        rng, last, heard = random.Random(seed), 0, ""
        while True:
            async with aclosing(await talk.rooms.runs.events(begun.run, last)) as frames:
                async for frame in frames:
                    last, event, data = read(frame)
                    if event == "text":
                        heard += data["text"]
                    if event == "ended":
                        assert data["message"]["parts"] == [{"type": "text", "text": heard}]
                        return heard
                    if rng.random() < 0.05:
                        break
                    if seed == 0:
                        await asyncio.sleep(0.002)  # a slow one

    heard = await asyncio.gather(*(reader(seed) for seed in range(10)))
    assert set(heard) == {wanted}


async def test_a_run_that_ended_long_ago_is_one_snapshot(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    begun = await talk.ask(thread)
    await talk.rooms.runs.wait(begun.run)
    talk.rooms.runs.forget(thread)
    ((id, event, data),) = await talk.follow(begun.run, after=3)
    assert (id, event, data["state"], data["message"]["id"]) == (0, "snapshot", "done", begun.answer.id)
    with pytest.raises(NotFound):
        await talk.follow("run_none")


async def test_what_has_come_is_kept_while_it_is_written(talk: Talk) -> None:
    thread = await talk.thread()
    talk.script.words, talk.script.pauses_at = ["one ", "two ", "three"], 2
    begun = await talk.ask(thread)
    async with asyncio.timeout(5):
        while not (kept := await talk.message(thread, begun.answer.id)).parts:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (text_of(kept.parts), kept.status) == ("one two ", "writing")
    assert await talk.rooms.context.store.read(lambda c: search(c, "two", Filters(), "newest", 5)) == []
    talk.script.gate.set()
    await talk.rooms.runs.wait(begun.run)
    (hit,) = await talk.rooms.context.store.read(lambda c: search(c, "two", Filters(), "newest", 5))
    assert hit.message == begun.answer.id


async def test_a_stopped_answer_is_kept_and_gone_on_with_to_the_letter(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    talk.script.words, talk.script.pauses_at = ["Once upon ", "a ti", "and nothing more"], 2
    begun = await talk.ask(thread)
    await until(talk, 2)
    talk.rooms.runs.stop(begun.run)
    await talk.rooms.runs.wait(begun.run)
    stopped = await talk.message(thread, begun.answer.id)
    so_far = "Once upon a ti"
    assert (text_of(stopped.parts), stopped.status) == (so_far, "stopped")
    talk.script.gate.set()
    talk.script.words = ["me."]
    again = await talk.rooms.runs.start(thread, Asked(continues=stopped.id))
    assert isinstance(again, Begun)
    assert [data["text"] for _, event, data in await talk.follow(again.run) if event == "text"] == ["me."]
    await talk.rooms.runs.wait(again.run)
    whole = await talk.message(thread, stopped.id)
    assert (text_of(whole.parts), whole.status) == (f"{so_far}me.", "done")
    heard = talk.script.heard[-1]
    assert isinstance(heard, ChatRequest)
    assert heard.messages[-1] == {"role": "assistant", "content": so_far}
    with pytest.raises(Conflict):
        await talk.rooms.runs.start(thread, Asked(continues=stopped.id))


async def test_where_a_template_takes_no_half_answer_the_rendered_prompt_goes_on(talk: Talk) -> None:
    thread = await talk.thread()
    talk.script.ends = "length"
    begun = await talk.ask(thread, "count")
    await talk.rooms.runs.wait(begun.run)
    talk.script.words, talk.script.fails = [], EngineFailed("prefill is not for this model")
    again = await talk.rooms.runs.start(thread, Asked(continues=begun.answer.id))
    assert isinstance(again, Begun)
    await talk.rooms.runs.wait(again.run)
    refused, raw = talk.script.heard[-2:]
    assert isinstance(refused, ChatRequest)
    assert isinstance(raw, CompletionRequest)
    assert str(raw.prompt).endswith("<user>countwell, hello")


async def test_another_answer_stands_beside_the_first(talk: Talk) -> None:
    thread = await talk.thread()
    first = await talk.answered(thread)
    talk.script.words = ["hi"]
    again = await talk.rooms.runs.start(thread, Asked(regenerate=first.id))
    assert isinstance(again, Begun)
    await talk.rooms.runs.wait(again.run)
    page = (await talk.rooms.desk.open(thread)).page
    assert page.siblings[again.answer.id] == [first.id, again.answer.id]
    assert await talk.texts(thread) == ["hello", "hi"]


async def test_an_edited_question_is_answered_beside_the_first(talk: Talk) -> None:
    thread = await talk.thread()
    first = await talk.answered(thread, "one")
    assert first.parent is not None
    await talk.answered(thread, "two", instead_of=first.parent)
    assert await talk.texts(thread) == ["two", "well, hello"]
    assert len((await talk.rooms.desk.open(thread)).outline) == 4


async def test_what_waits_is_sent_in_order_and_can_be_changed(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    talk.script.gate.clear()
    await talk.ask(thread, "one")
    second = await talk.wait_in_line(thread, "two")
    third = await talk.wait_in_line(thread, "three")
    fourth = await talk.wait_in_line(thread, "four")
    await talk.rooms.desk.change_queued(thread, second.id, [Text(text="two, changed")])
    await talk.rooms.desk.change_queued(thread, third.id, None)
    assert [each.id for each in await talk.rooms.desk.queue(thread)] == [second.id, fourth.id]
    with pytest.raises(Conflict):
        await talk.rooms.runs.start(thread, Asked(parts=(Text(text="now"),)), queues=False)
    talk.script.gate.set()
    await all_answered(talk, thread, 6)
    assert (await talk.texts(thread))[::2] == ["one", "two, changed", "four"]
    assert await talk.rooms.desk.queue(thread) == []
    with pytest.raises(NotFound):
        await talk.rooms.desk.change_queued(thread, second.id, None)


async def test_after_a_stop_what_waits_stays_where_it_is(talk: Talk) -> None:
    thread = await talk.thread()
    talk.script.gate.clear()
    begun = await talk.ask(thread, "one")
    waiting = await talk.wait_in_line(thread, "two")
    talk.rooms.runs.stop(begun.run)
    await talk.rooms.runs.wait(begun.run)
    assert [each.id for each in await talk.rooms.desk.queue(thread)] == [waiting.id]


async def test_an_error_is_kept_with_what_had_come(talk: Talk) -> None:
    thread = await talk.thread()
    talk.script.fails = EngineFailed("The engine broke.", fix="Ask again.")
    answer = await talk.answered(thread)
    assert (answer.status, text_of(answer.parts)) == ("error", "well, hello")
    assert answer.error == {"code": "engine_failed", "detail": "The engine broke.", "fix": "Ask again."}


async def test_a_model_that_is_not_there_is_an_error_of_the_answer(talk: Talk) -> None:
    thread = await talk.thread(model="nobody")
    answer = await talk.answered(thread)
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == ("error", "model_not_found")


async def test_the_server_s_end_interrupts_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        thread = await talk.thread()
        talk.script.pauses_at = 1
        begun = await talk.ask(thread)
        await until(talk, 1)
    async with talking(tmp_path) as talk:
        answer = await talk.message(thread, begun.answer.id)
        assert (text_of(answer.parts), answer.status) == ("well, ", "interrupted")
        again = await talk.rooms.runs.start(thread, Asked(continues=answer.id))
        assert isinstance(again, Begun)


async def test_what_a_crash_left_unfinished_is_marked(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        thread = await talk.thread()
        answer = await talk.answered(thread)
        writing: Message = replace(answer, status="writing")
        await talk.rooms.shelf.store.write(lambda rows: rows.put_message(writing))
    async with talking(tmp_path) as talk:
        assert (await talk.message(thread, answer.id)).status == "interrupted"


async def test_two_windows_lose_no_message(talk: Talk) -> None:
    thread = await talk.thread()

    async def window(name: str) -> list[str]:
        texts = []
        for number in range(10):
            text = f"{name}{number}"
            asked: Any = Asked(parts=(Text(text=text),))
            await talk.rooms.runs.start(thread, asked)
            texts.append(text)
        return texts

    sent = [text for texts in await asyncio.gather(window("a"), window("b")) for text in texts]
    await all_answered(talk, thread, 40)
    assert sorted((await talk.texts(thread))[::2]) == sorted(sent)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (Asked(), BadRequest),
        (Asked(regenerate="msg_none"), NotFound),
        (Asked(continues="msg_none"), NotFound),
        (Asked(parts=(Text(text="x"),), parent="msg_none"), NotFound),
        (Asked(regenerate="a", continues="b"), BadRequest),
    ],
)
async def test_what_cannot_be_asked(talk: Talk, asked: Asked, error: type[Exception]) -> None:
    thread = await talk.thread()
    with pytest.raises(error):
        await talk.rooms.runs.start(thread, asked)
    with pytest.raises(NotFound):
        await talk.rooms.runs.start("thread_none", asked)
    assert (await talk.rooms.desk.open(thread)).outline == []


async def test_nothing_is_asked_in_the_trash(talk: Talk) -> None:
    thread = await talk.thread()
    await talk.answered(thread)
    await talk.rooms.desk.trash(thread)
    with pytest.raises(Conflict):
        await talk.ask(thread)
    await talk.rooms.desk.restore(thread)
    await talk.answered(thread)


async def test_deleting_a_thread_ends_its_run(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    talk.script.gate.clear()
    await talk.ask(thread)
    await talk.rooms.desk.delete(thread)
    assert talk.rooms.runs.is_idle
    with pytest.raises(NotFound):
        await talk.rooms.desk.get(thread)


async def test_a_thread_in_memory_is_kept_only_on_purpose(talk: Talk) -> None:
    thread = await talk.thread(memory_only=True)
    first = await talk.answered(thread, "one")
    talk.script.words = ["again"]
    await talk.rooms.runs.wait((await _again(talk, thread, first.id)).run)
    kept = await talk.rooms.desk.keep(thread)
    assert not kept.is_memory_only
    assert await talk.texts(kept.id) == ["one", "again"]
    assert len((await talk.rooms.desk.open(kept.id)).outline) == 3
    with pytest.raises(NotFound):
        await talk.rooms.desk.get(thread)


async def _again(talk: Talk, thread: str, answer: str) -> Begun:
    begun = await talk.rooms.runs.start(thread, Asked(regenerate=answer))
    assert isinstance(begun, Begun)
    return begun


async def test_what_is_in_memory_only_is_asked_of_a_worker_of_its_own(talk: Talk) -> None:
    await talk.answered(await talk.thread(memory_only=True))
    await talk.answered(await talk.thread())
    assert talk.script.asked_for == ["private", "chat"]


async def test_without_room_for_one_the_shared_worker_is_told_and_that_is_said(talk: Talk) -> None:
    talk.script.has_room = False
    thread = await talk.thread(memory_only=True)
    begun = await talk.ask(thread)
    said = await talk.follow(begun.run)
    assert [data["worker"] for _, event, data in said if event == "context"] == ["own", "shared"]
    assert talk.script.asked_for == ["private", "chat"]
    assert (await talk.message(thread, begun.answer.id)).status == "done"


async def test_what_is_deleted_while_the_next_begins_leaves_nothing(talk: Talk, memory_only: bool) -> None:
    """A run ends, the next that waits begins, and the thread is deleted: in whatever order these come."""
    for pause in range(12):
        thread = await talk.thread(memory_only=memory_only)
        talk.script.gate.clear()
        await talk.ask(thread, "one")
        await talk.wait_in_line(thread, "two")
        talk.script.gate.set()
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        await talk.rooms.desk.delete(thread)
        heard = len(talk.script.heard)
        assert talk.rooms.runs.of_thread(thread) is None
        await asyncio.sleep(0.01)
        assert len(talk.script.heard) == heard
        with pytest.raises(NotFound):
            await talk.rooms.desk.get(thread)
    left = text("SELECT count(*) FROM conversational__queue")
    assert await talk.rooms.context.store.read(lambda c: c.execute(left).scalar_one()) == 0


async def test_an_assistant_that_is_not_there_is_no_reason_to_keep_words(talk: Talk) -> None:
    with pytest.raises(NotFound):
        await talk.thread(assistant="Confidant")
    thread = await talk.thread()
    with pytest.raises(NotFound):
        await talk.ask(thread, assistant="Confidant")
    with pytest.raises(NotFound):
        await talk.rooms.desk.change(thread, assistant="Confidant")
    assert (await talk.rooms.desk.open(thread)).outline == []


async def test_what_waits_keeps_its_place_in_the_tree(talk: Talk) -> None:
    thread = await talk.thread()
    first = await talk.answered(thread, "one")
    talk.script.gate.clear()
    await talk.ask(thread, "two")
    asked = Asked(parts=(Text(text="one, edited"),), instead_of=first.parent)
    await talk.rooms.runs.start(thread, asked)
    talk.script.gate.set()
    async with asyncio.timeout(10):
        while len(talk.script.heard) < 3 or not talk.rooms.runs.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await talk.texts(thread) == ["one, edited", "well, hello"]


async def test_another_thread_s_queue_is_out_of_reach(talk: Talk) -> None:
    mine, other = await talk.thread(), await talk.thread()
    talk.script.gate.clear()
    begun = await talk.ask(other)
    waiting = await talk.wait_in_line(other, "two")
    with pytest.raises(NotFound):
        await talk.rooms.desk.change_queued(mine, waiting.id, None)
    assert len(await talk.rooms.desk.queue(other)) == 1
    talk.rooms.runs.stop(begun.run)
    talk.script.gate.set()
