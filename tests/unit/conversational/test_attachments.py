"""Files of threads: they go where their thread goes, end with what names them, and models get what they can read."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allod.extensions.conversational.attachments import as_part, attach, contents, detach, opened
from allod.extensions.conversational.files import IMAGE_TOKENS, MOST_TEXT_BYTES, Files, without_images
from allod.extensions.conversational.parts import File, Image, Part, Text, as_openai, blobs_of
from allod.extensions.conversational.records import Attachment, Message
from allod.extensions.conversational.rows import Archive
from allod.extensions.conversational.runs import Asked, Begun
from allod.sdk.chat import ChatRequest
from allod.sdk.engine import ModelCard, ModelId
from allod.sdk.errors import BadRequest, Conflict, NotFound, StoreDamaged
from tests.unit.conversational.talking import Talk, TellerEngine, talking

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXT = "The code word is 芝麻开门.".encode()


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with talking(tmp_path) as talk:
        yield talk


@pytest.fixture(params=[False, True], ids=["kept", "memory-only"])
def memory_only(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def archive(talk: Talk, thread: str) -> Archive:
    return talk.rooms.shelf.of(thread)


async def put(talk: Talk, thread: str, data: bytes = TEXT, name: str = "a.txt") -> Image | File:
    return as_part(await attach(archive(talk, thread), thread, name, "", data))


async def said(talk: Talk, thread: str, *parts: Part, **fields: Any) -> Begun:
    """Ask with these parts, and wait for the answer."""
    begun = await talk.rooms.runs.start(thread, Asked(parts=parts, **fields))
    assert isinstance(begun, Begun)
    await talk.rooms.runs.wait(begun.run)
    return begun


async def files(talk: Talk, thread: str) -> list[Attachment]:
    return await archive(talk, thread).read(lambda rows: rows.attachments(thread))


def blob_files(talk: Talk) -> set[str]:
    return {file.name for file in talk.house.paths.blobs.rglob("*") if file.is_file()}


def held(talk: Talk) -> set[str]:
    """The blobs of which there are bytes, wherever."""
    return blob_files(talk) | talk.rooms.shelf.memory.rows.bytes.keys()


async def test_what_is_attached_comes_back(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    text, image = await put(talk, thread), await put(talk, thread, PNG, "../dot.png")
    assert text == File(blob=text.blob, media_type="text/plain", name="a.txt", bytes=len(TEXT))
    assert image == Image(blob=image.blob, media_type="image/png", name="dot.png", bytes=len(PNG))
    for part, data in ((text, TEXT), (image, PNG)):
        found, content = await opened(archive(talk, thread), thread, part.blob)
        assert (as_part(found), content) == (part, data)
    assert await contents(archive(talk, thread), thread) == {text.blob: TEXT, image.blob: PNG}
    assert blob_files(talk) == (set() if memory_only else {text.blob, image.blob})


async def test_a_file_is_its_thread_s_only(talk: Talk, memory_only: bool) -> None:
    thread, other = await talk.thread(memory_only=memory_only), await talk.thread()
    part = await put(talk, thread)
    with pytest.raises(NotFound):
        await opened(archive(talk, other), other, part.blob)
    question = (await talk.ask(other)).question
    assert question is not None
    for refused in (
        talk.rooms.runs.start(await talk.thread(), Asked(parts=(part,))),
        talk.rooms.desk.edit(other, question.id, [part]),
        talk.rooms.runs.start(thread, Asked(parts=(part.model_copy(update={"blob": "x" * 32}),))),
    ):
        with pytest.raises(BadRequest, match="has no file"):
            await refused


async def test_what_is_said_of_a_file_is_what_is_known(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part = await put(talk, thread)
    lie = Image(blob=part.blob, media_type="image/png", name="<b>.png", bytes=1)
    begun = await said(talk, thread, lie)
    assert begun.question is not None
    assert begun.question.parts == (part,)


async def test_a_thread_that_is_not_there_takes_no_file(talk: Talk) -> None:
    with pytest.raises(NotFound):
        await attach(talk.rooms.shelf.store, "thread_none", "a.txt", "", TEXT)
    assert held(talk) == set()


async def test_a_thread_that_is_deleted_meanwhile_keeps_no_file(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    where = archive(talk, thread)
    put_bytes = where.put_bytes

    async def and_then_it_is_gone(data: bytes) -> tuple[str, bytes]:
        made = await put_bytes(data)
        await talk.rooms.desk.delete(thread)
        return made

    where.put_bytes = and_then_it_is_gone  # type: ignore[method-assign]
    with pytest.raises(NotFound):
        await attach(where, thread, "a.txt", "", TEXT)
    assert held(talk) == set()


async def test_with_its_last_message_a_file_goes(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part, unsent = await put(talk, thread), await put(talk, thread)
    question = (await said(talk, thread, part)).question
    assert question is not None
    edited = await talk.rooms.desk.edit(thread, question.id, [Text(text="again"), part])
    await talk.rooms.desk.cut(thread, question.id)
    assert held(talk) == {part.blob, unsent.blob}
    await talk.rooms.desk.cut(thread, edited.id)
    assert held(talk) == {unsent.blob}
    assert [each.blob for each in await files(talk, thread)] == [unsent.blob]
    with pytest.raises(NotFound):
        await opened(archive(talk, thread), thread, part.blob)


async def test_what_waits_holds_its_file(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part, other = await put(talk, thread), await put(talk, thread)
    talk.script.gate.clear()
    begun = await talk.ask(thread)
    queued = await talk.rooms.runs.start(thread, Asked(parts=(part,)))
    with pytest.raises(BadRequest, match="has no file"):
        await talk.rooms.runs.start(thread, Asked(parts=(part.model_copy(update={"blob": "none"}),)))
    with pytest.raises(Conflict):
        await detach(archive(talk, thread), thread, part.blob)
    await talk.rooms.desk.change_queued(thread, queued.id, [other])  # type: ignore[union-attr]
    assert held(talk) == {other.blob}
    await talk.rooms.desk.change_queued(thread, queued.id, None)  # type: ignore[union-attr]
    assert held(talk) == set()
    talk.script.gate.set()
    await talk.rooms.runs.wait(begun.run)


async def test_what_waited_is_sent_with_its_file(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part = await put(talk, thread)
    talk.script.gate.clear()
    begun = await talk.ask(thread)
    await talk.rooms.runs.start(thread, Asked(parts=(part,)))
    talk.script.gate.set()
    await talk.rooms.runs.wait(begun.run)
    async with asyncio.timeout(10):
        while len(talk.script.heard) < 2 or not talk.rooms.runs.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    asked = talk.script.heard[-1]
    assert isinstance(asked, ChatRequest)
    assert TEXT.decode() in asked.last_user_text()


async def test_what_was_not_sent_can_be_taken_back(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    unsent, sent = await put(talk, thread), await put(talk, thread)
    await said(talk, thread, sent)
    await detach(archive(talk, thread), thread, unsent.blob)
    with pytest.raises(Conflict, match="part of a message"):
        await detach(archive(talk, thread), thread, sent.blob)
    with pytest.raises(NotFound):
        await detach(archive(talk, thread), thread, unsent.blob)
    assert held(talk) == {sent.blob}


async def test_a_thread_takes_its_files_along(talk: Talk, memory_only: bool) -> None:
    thread, other = await talk.thread(memory_only=memory_only), await talk.thread()
    await said(talk, thread, await put(talk, thread), await put(talk, thread, PNG))
    await put(talk, thread)
    kept = await put(talk, other)
    if not memory_only:
        await talk.rooms.desk.trash(thread)
        assert len(held(talk)) == 4  # from the trash a thread comes back whole
    await talk.rooms.desk.delete(thread)
    assert held(talk) == {kept.blob}
    rows = await talk.rooms.context.store.read(
        lambda connection: connection.exec_driver_sql("SELECT blob FROM conversational__attachments").all()
    )
    assert rows == [(kept.blob,)]  # and with the rows their keys


async def test_a_fork_has_copies_of_its_own(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part, later, unsent = await put(talk, thread), await put(talk, thread), await put(talk, thread)
    first = await said(talk, thread, part, Text(text="one"))
    await said(talk, thread, later)
    forked = await talk.rooms.desk.fork(thread, first.answer.id)
    (copy,) = await files(talk, forked.id)
    question = (await talk.rooms.desk.open(forked.id)).page.messages[0]
    assert blobs_of(question.parts) == {copy.blob}
    assert copy.blob not in {part.blob, later.blob, unsent.blob}
    await talk.rooms.desk.delete(thread)
    assert (await opened(archive(talk, forked.id), forked.id, copy.blob))[1] == TEXT
    assert held(talk) == {copy.blob}


async def test_a_fork_that_fails_leaves_nothing(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    part = await put(talk, thread)
    begun = await said(talk, thread, part)
    with pytest.raises(NotFound):
        await talk.rooms.desk.fork(thread, "msg_none")
    other = await talk.thread(memory_only=memory_only)
    with pytest.raises(NotFound):
        await talk.rooms.desk.fork(other, begun.answer.id)
    assert held(talk) == {part.blob}


async def test_what_is_kept_after_all_moves_into_the_store(talk: Talk) -> None:
    thread = await talk.thread(memory_only=True)
    part, unsent = await put(talk, thread), await put(talk, thread, PNG)
    await said(talk, thread, part)
    kept = await talk.rooms.desk.keep(thread)
    found = await files(talk, kept.id)
    assert talk.rooms.shelf.memory.rows.bytes == {}
    assert blob_files(talk) == {each.blob for each in found}
    question = (await talk.rooms.desk.open(kept.id)).page.messages[0]
    assert blobs_of(question.parts) < blob_files(talk)
    assert not blob_files(talk) & {part.blob, unsent.blob}
    assert sorted((await contents(archive(talk, kept.id), kept.id)).values()) == sorted([TEXT, PNG])


async def test_bytes_that_no_row_names_go_at_the_next_start(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        thread = await talk.thread()
        part = await put(talk, thread)
        orphan, _ = await talk.rooms.shelf.store.put_bytes(TEXT)  # killed before its row was written
        assert blob_files(talk) == {part.blob, orphan}
    async with talking(tmp_path) as talk:
        assert blob_files(talk) == {part.blob}
        assert (await opened(archive(talk, thread), thread, part.blob))[1] == TEXT


async def test_each_file_has_a_key_of_its_own(talk: Talk) -> None:
    thread = await talk.thread()
    await put(talk, thread)
    await put(talk, thread)
    one, other = await files(talk, thread)
    assert len({one.key, other.key, b""}) == 3
    assert one.key.hex() not in repr(one)
    with pytest.raises(StoreDamaged):
        await talk.rooms.context.blobs.get(one.blob, other.key)


# what models are given


async def test_a_model_reads_text_files(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    text, image, pdf = (
        await put(talk, thread, b"\xef\xbb\xbf" + TEXT),
        await put(talk, thread, PNG, "a.png"),
        await put(talk, thread, b"%PDF-1.7", "a.pdf"),
    )
    large = await put(talk, thread, b"a" * (MOST_TEXT_BYTES + 1), "large.log")
    begun = await said(talk, thread, text, Text(text="What is it?"), image, pdf, large)
    asked = talk.script.heard[-1]
    assert isinstance(asked, ChatRequest)
    assert asked.messages[-1] == {
        "role": "user",
        "content": f"[file: a.txt]\n{TEXT.decode()}\n\nWhat is it?\n\n[image: a.png]\n\n[file: a.pdf]"
        "\n\n[file: large.log]",
    }
    record, _ = await talk.rooms.shelf.find_run(begun.run)
    assert record.context is not None
    assert record.context["files"] == {"texts": [text.blob], "images": []}
    assert record.context["tokens"]["prompt"] >= len(TEXT.decode().split())


async def test_what_a_file_holds_counts(talk: Talk, memory_only: bool) -> None:
    """The teller reads 1000 words; an old file of 900 is left out when there is no room for it."""
    thread = await talk.thread(memory_only=memory_only)
    await said(talk, thread, await put(talk, thread, b"word " * 600))
    begun = await said(talk, thread, Text(text="word " * 300))
    record, _ = await talk.rooms.shelf.find_run(begun.run)
    assert record.context is not None
    assert record.context["left_out"] == 2
    assert record.context["files"]["texts"] == []


SEES = ModelCard(ModelId("seer"), "teller", "Seer", 8000, 10, capabilities=("chat", "vision"))
BLIND = ModelCard(ModelId("teller"), "teller", "Teller", 8000, 10)


def message(*parts: Part) -> Message:
    return Message("msg_1", "thread_1", None, 1, "user", parts, 1.0)


async def test_a_model_that_sees_is_shown_images(talk: Talk, memory_only: bool) -> None:
    thread = await talk.thread(memory_only=memory_only)
    image = await put(talk, thread, PNG, "a.png")
    asked = message(Text(text="What?"), image)
    given = Files(archive(talk, thread), thread, SEES)
    assert await given.images([asked]) == {
        image.blob: f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    }
    assert given.image_tokens([asked, asked]) == 2 * IMAGE_TOKENS
    assert given.noted([asked.id]) == {"texts": [], "images": [image.blob]}
    told = as_openai("user", asked.parts, await given.images([asked]))
    assert [part["type"] for part in told[0]["content"]] == ["text", "image_url"]
    assert without_images(told) == [{"role": "user", "content": "What?"}]
    blind = Files(archive(talk, thread), thread, BLIND)
    assert (await blind.images([asked]), blind.image_tokens([asked])) == ({}, 0)


async def test_what_a_model_is_asked_holds_its_images(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def models(self: TellerEngine) -> list[ModelCard]:
        return [replace(SEES, id=ModelId("teller"))]

    monkeypatch.setattr(TellerEngine, "models", models)
    thread = await talk.thread()
    old, new = await put(talk, thread, PNG, "a.png"), await put(talk, thread, PNG, "b.png")
    await said(talk, thread, old)
    begun = await said(talk, thread, new, Text(text="and this?"))
    asked = talk.script.heard[-1]
    assert isinstance(asked, ChatRequest)
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert [message["content"] for message in asked.messages if message["role"] == "user"] == [
        [{"type": "image_url", "image_url": {"url": url}}],
        [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "and this?"}],
    ]
    record, _ = await talk.rooms.shelf.find_run(begun.run)
    assert record.context is not None
    assert record.context["files"]["images"] == sorted([old.blob, new.blob])
    assert record.context["tokens"]["prompt"] > 2 * IMAGE_TOKENS


async def test_a_part_that_only_says_it_is_an_image_is_shown_to_nobody(talk: Talk) -> None:
    thread = await talk.thread()
    text = await put(talk, thread)
    lie = message(Image(blob=text.blob, media_type="image/png", name="a.png", bytes=1))
    assert await Files(archive(talk, thread), thread, SEES).images([lie]) == {}


async def test_of_many_images_the_newest_are_shown(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allod.extensions.conversational.files.MOST_IMAGE_BYTES", 2 * len(PNG))
    thread = await talk.thread()
    images = [await put(talk, thread, PNG, f"{number}.png") for number in range(3)]
    shown = await Files(archive(talk, thread), thread, SEES).images([message(each) for each in images])
    assert shown.keys() == {each.blob for each in images[1:]}


async def test_a_damaged_file_is_told_by_name(talk: Talk) -> None:
    thread = await talk.thread()
    part = await put(talk, thread)
    (file,) = [each for each in talk.house.paths.blobs.rglob("*") if each.is_file()]
    file.write_bytes(file.read_bytes()[:-1])
    await said(talk, thread, part)
    asked = talk.script.heard[-1]
    assert isinstance(asked, ChatRequest)
    assert asked.last_user_text() == "[file: a.txt]"
    with pytest.raises(StoreDamaged):
        await opened(archive(talk, thread), thread, part.blob)
    await talk.rooms.desk.delete(thread)
    assert held(talk) == set()
