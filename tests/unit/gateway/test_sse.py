"""Streams outward: when the head leaves, signs of life, and errors before and after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from allod.gateway import sse
from allod.gateway.exchange import Exchange
from allod.sdk.errors import BadRequest, EngineGone
from tests.unit.gateway.asgi import Answer, receiver, scope


def exchange() -> tuple[Exchange, Answer]:
    answer = Answer()
    return Exchange(scope("POST", "/v1/x", {}), receiver([b"{}"]), answer.take), answer


async def frames(*given: bytes | float | Exception) -> AsyncGenerator[bytes, None]:
    """Frames, with pauses in seconds between them, and perhaps an error at the end."""
    for each in given:
        if isinstance(each, Exception):
            raise each
        if isinstance(each, float):
            await asyncio.sleep(each)
        else:
            yield each


async def test_frames_then_done() -> None:
    made, answer = exchange()
    await sse.send_frames(made, frames(b"data: 1\n\n", b"data: 2\n\n"))
    assert (answer.status, answer.starts, answer.is_whole) == (200, 1, True)
    assert answer.body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


async def test_an_error_before_the_first_frame_keeps_its_status() -> None:
    made, answer = exchange()
    with pytest.raises(BadRequest):
        await sse.send_frames(made, frames(BadRequest("no")))
    assert answer.starts == 0


async def test_an_error_later_is_the_last_frame_and_nothing_is_done() -> None:
    made, answer = exchange()
    await sse.send_frames(made, frames(b"data: 1\n\n", EngineGone("It ended.")))
    *_, last, end = answer.body.split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_gone"
    assert (end, answer.is_whole, b"[DONE]" in answer.body) == (b"", True, False)


async def test_a_mistake_in_mid_stream_gives_nothing_away() -> None:
    made, answer = exchange()
    await sse.send_frames(made, frames(b"data: 1\n\n", ValueError("what the user wrote")))
    assert b"internal_error" in answer.body
    assert b"user" not in answer.body


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_BEAT_S", 0.02)
    made, answer = exchange()
    await sse.send_frames(made, frames(0.1, b"data: 1\n\n"))
    comments, _, rest = answer.body.partition(b"data: ")
    assert comments == sse.COMMENT * (len(comments) // len(sse.COMMENT)) and comments
    assert rest == b"1\n\ndata: [DONE]\n\n"
    assert answer.starts == 1


async def test_an_error_after_a_comment_is_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_BEAT_S", 0.02)
    made, answer = exchange()
    await sse.send_frames(made, frames(0.1, BadRequest("no")))
    assert answer.status == 200
    assert b'data: {"error":' in answer.body and b"[DONE]" not in answer.body


async def test_whoever_leaves_closes_the_source() -> None:
    closed = []

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.001)
        finally:
            closed.append(True)

    made, _ = exchange()
    tasks = asyncio.all_tasks()
    task = asyncio.create_task(sse.send_frames(made, endless()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert closed == [True]
    assert asyncio.all_tasks() == tasks
