"""What is done while it is quiet: titles and summaries, and that the first key ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from allod.extensions.conversational import idle
from allod.extensions.conversational.idle import _as_title
from allod.extensions.conversational.parts import Text, text_of
from allod.extensions.conversational.records import ContextPolicy, Thread
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.tree import grow
from allod.sdk.chat import ChatRequest
from allod.sdk.chat import text_of as content_of
from tests.unit.conversational.talking import Talk, talking


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_QUIET_S", 0.05)


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with talking(tmp_path) as talk:
        yield talk


async def until(talk: Talk, thread: str, is_so: Callable[[Thread], bool]) -> Thread:
    async with asyncio.timeout(10):
        while not is_so(found := await talk.rooms.desk.get(thread)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


def titled(thread: Thread) -> bool:
    return thread.title_source != "none"


async def test_a_title_is_found_from_the_first_turn(talk: Talk) -> None:
    thread = await talk.thread()
    await talk.answered(thread, "tell me of cranes")
    talk.script.words = ['"Cranes in ', 'spring"\nand more']
    found = await until(talk, thread, titled)
    assert (found.title, found.title_source) == ("Cranes in spring", "auto")
    heard = talk.script.heard[-1]
    assert isinstance(heard, ChatRequest)
    asked = [content_of(message) for message in heard.messages]
    assert asked[1:3] == [
        "tell me of cranes",
        "well, hello",
    ]  # the chat's own beginning, which is in the cache


async def test_a_title_of_the_user_s_stays(talk: Talk) -> None:
    thread = await talk.thread(title="Mine", title_source="manual")
    await talk.answered(thread)
    other = await talk.thread()
    await talk.answered(other)
    await until(talk, other, titled)
    assert (await talk.rooms.desk.get(thread)).title == "Mine"


async def test_the_first_key_ends_it(talk: Talk) -> None:
    thread = await talk.thread()
    await talk.answered(thread)
    talk.script.gate.clear()
    async with asyncio.timeout(5):
        while len(talk.script.heard) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    talk.rooms.idle.disturb()
    async with asyncio.timeout(5):
        while talk.rooms.idle._working is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not titled(await talk.rooms.desk.get(thread))
    talk.script.gate.set()
    await until(talk, thread, titled)  # later, then


async def test_threads_in_memory_get_no_title(talk: Talk) -> None:
    hidden = await talk.thread(memory_only=True)
    await talk.answered(hidden)
    seen = await talk.thread()
    await talk.answered(seen)
    await until(talk, seen, titled)
    assert not titled(await talk.rooms.desk.get(hidden))
    assert len(talk.script.heard) == 3


async def test_what_is_left_out_is_put_into_a_summary(talk: Talk) -> None:
    policy = ContextPolicy(strategy="summarize")
    thread = await talk.thread(
        context=policy, title="t", title_source="manual", parameters={"max_tokens": 50}
    )

    def fill(rows: Rows) -> None:
        made = rows.thread(thread)
        for number in range(40):
            made, _ = grow(rows, made, made.active, "user", [Text(text=f"q{number} " * 20)])
            made, _ = grow(rows, made, made.active, "assistant", [Text(text=f"a{number} " * 20)])

    await talk.rooms.shelf.store.write(fill)
    await talk.answered(thread, "go on")
    talk.script.words = ["They spoke ", "of q and a."]
    found = await until(talk, thread, lambda thread: bool(thread.summary))
    assert found.summary == "They spoke of q and a."
    page = (await talk.rooms.desk.open(thread, 1000)).page
    ids = [message.id for message in page.messages]
    assert ids.index(str(found.summary_upto)) + 1 == ids.index(str(found.kept_from))
    said = [
        content_of(request.messages[0]) for request in talk.script.heard if isinstance(request, ChatRequest)
    ]
    assert sum(text.startswith("Summarize") for text in said) >= 1
    assert "q0 q0" in next(text for text in said if text.startswith("Summarize"))
    await talk.answered(thread, "and now")
    last = talk.script.heard[-1]
    assert isinstance(last, ChatRequest)
    assert "They spoke of q and a." in content_of(last.messages[1])
    assert text_of(page.messages[0].parts).startswith("q0")  # nothing of the thread itself has changed


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("A title.", "A title"),
        ("\n\n  **Bold**\n", "Bold"),
        ("《鹤与春天》。", "鹤与春天"),
        ("", ""),
        ("word " * 40, f"{('word ' * 40)[:79].rstrip()}…"),
    ],
)
def test_what_a_model_says_becomes_a_title(said: str, title: str) -> None:
    assert _as_title(said) == title
