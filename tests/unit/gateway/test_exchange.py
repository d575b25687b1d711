"""One exchange: bodies within limits, one answer, a client that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from allod.gateway.exchange import Exchange
from allod.sdk.errors import BadRequest, BodyTooLarge, UnsupportedContentType
from tests.unit.gateway.asgi import Answer, receiver, scope

MIB = 1 << 20


def exchange(parts: Sequence[bytes], *, leaves: bool = False, **headers: str) -> tuple[Exchange, Answer]:
    answer = Answer()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    made = Exchange(scope("POST", "/v1/x", named), receiver(parts, leaves=leaves), answer.take)
    return made, answer


async def read(parts: Sequence[bytes], *, leaves: bool = False, **headers: str) -> dict[str, Any]:
    return await exchange(parts, leaves=leaves, **headers)[0].read_json(1)


async def test_a_body_in_parts() -> None:
    assert await read([b'{"a":', b"", b' "\xe4\xb8', b'\x96"}']) == {"a": "世"}


@pytest.mark.parametrize(
    "kind", ["", "application/json", "application/json; charset=utf-8", "Application/JSON ;charset=UTF-8"]
)
async def test_kinds_of_bodies_that_are_read(kind: str) -> None:
    assert await read([b"{}"], content_type=kind) == {}


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x" * 500, ";"],
)
async def test_kinds_that_are_not(kind: str) -> None:
    with pytest.raises(UnsupportedContentType) as caught:
        await read([b"{}"], content_type=kind)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b'{"a":', b"{'a': 1}", b"\xff\xfe", b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": 1} {"b": 2}'),
        *(b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    ],
    ids=range(9),
)
async def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        await read([body])


async def test_a_complaint_does_not_quote_the_body() -> None:
    with pytest.raises(BadRequest) as caught:
        await read([b'{"messages": "my own words'])
    assert "own" not in caught.value.message


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true"])
async def test_json_that_is_no_object(body: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        await read([body])


async def test_too_large_by_its_own_word_is_refused_unread() -> None:
    made, _ = exchange([], content_length=str(MIB + 1))
    with pytest.raises(BodyTooLarge) as caught:
        async with asyncio.timeout(1):
            await made.read_json(1)
    assert "1 MiB" in caught.value.detail and "max_body_mib" in caught.value.fix


@pytest.mark.parametrize("length", ["", "2", "-1", "many"])
async def test_too_large_in_truth_is_refused_whatever_it_said(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        await read([b"x" * MIB, b"x"], content_length=length)


async def test_as_large_as_allowed() -> None:
    body = b'{"a":"' + b"x" * (MIB - 8) + b'"}'
    assert len(body) == MIB
    assert len((await read([body], content_length=str(MIB)))["a"]) == MIB - 8


async def test_a_client_that_leaves_before_it_has_said_all() -> None:
    with pytest.raises(BadRequest, match="left"):
        await read([b'{"a":'], leaves=True)


async def test_what_is_left_of_a_refused_body_is_thrown_away() -> None:
    made, _ = exchange([b"x"] * 100)
    async with asyncio.timeout(1):
        await made.drain(5)


async def test_nobody_waits_for_ever_for_the_rest() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    made = Exchange(scope("POST", "/", {}), never, Answer().take)
    async with asyncio.timeout(1):
        await made.drain(0.01)


async def test_an_answer_as_a_whole() -> None:
    made, answer = exchange([b"{}"])
    assert not made.has_begun
    await made.reply_json({"a": "世"}, 201)
    assert made.has_begun and answer.is_whole
    assert (answer.status, answer.json) == (201, {"a": "世"})
    assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}


async def test_an_answer_in_pieces() -> None:
    made, answer = exchange([b"{}"])
    await made.begin(200, ())
    await made.write(b"a")
    assert (answer.body, answer.is_whole) == (b"a", False)
    await made.write(b"b", more=False)
    assert (answer.body, answer.is_whole) == (b"ab", True)


async def test_work_ends_as_soon_as_the_client_leaves() -> None:
    made, _ = exchange([b"{}"], leaves=True)
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async with asyncio.timeout(1):
        await made.while_connected(work)
    assert ended == [True]
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_work_that_is_done_is_left_alone() -> None:
    made, _ = exchange([b"{}"])
    done = []

    async def work() -> None:
        done.append(True)

    tasks = asyncio.all_tasks()
    await made.while_connected(work)
    await asyncio.sleep(0)
    assert done == [True]
    assert asyncio.all_tasks() == tasks


async def test_an_end_from_elsewhere_is_passed_on() -> None:
    made, _ = exchange([b"{}"])
    await made.read_json(1)
    task = asyncio.create_task(made.while_connected(asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_of_the_work_is_passed_on() -> None:
    made, _ = exchange([b"{}"])

    async def work() -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        await made.while_connected(work)
