"""The ring of frames: bounded, numbered, read by many from where each one left off."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from allod.kernel.replay import Lagged, Ring


def ring_of(count: int, *, frames: int = 100, size: int = 1000) -> Ring:
    ring = Ring(frames, size)
    for number in range(1, count + 1):
        assert ring.append(b"%d" % number) == number
    return ring


async def gathered(ring: Ring, after: int) -> list[tuple[int, bytes]]:
    async with aclosing(ring.read(after)) as frames:
        return [found async for found in frames]


async def test_a_reader_gets_what_is_kept_and_then_what_comes() -> None:
    ring = ring_of(3)
    reading = asyncio.create_task(gathered(ring, after=1))
    await asyncio.sleep(0)
    ring.append(b"4")
    ring.close()
    assert await reading == [(2, b"2"), (3, b"3"), (4, b"4")]


async def test_readers_do_not_take_from_each_other() -> None:
    ring = ring_of(0)
    reading = [asyncio.create_task(gathered(ring, after=0)) for _ in range(20)]
    for number in range(50):
        ring.append(b"%d" % number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    ring.close()
    told = await asyncio.gather(*reading)
    assert all(each == [(number + 1, b"%d" % number) for number in range(50)] for each in told)


@pytest.mark.parametrize(
    ("after", "keeps"), [(0, False), (6, False), (7, True), (10, True), (11, False), (-1, False)]
)
async def test_only_the_newest_frames_are_kept(after: int, keeps: bool) -> None:
    ring = ring_of(10, frames=3)
    assert ring.keeps(after) == keeps
    if keeps:
        ring.close()
        assert [number for number, _ in await gathered(ring, after)] == list(range(after + 1, 11))
    else:
        with pytest.raises(Lagged):
            ring.next(after)


async def test_bytes_are_bounded_and_the_newest_frame_always_stays() -> None:
    ring = Ring(100, 10)
    for _ in range(5):
        ring.append(b"1234")
    assert (ring.keeps(2), ring.keeps(3)) == (False, True)
    ring.append(b"x" * 50)
    assert (ring.keeps(4), ring.keeps(5)) == (False, True)
    assert ring.next(5) == (6, b"x" * 50)
    ring.append(b"y")
    assert ring.next(6) == (7, b"y")
    assert not ring.keeps(5)


async def test_a_slow_reader_is_told_that_it_has_lagged_and_holds_up_nobody() -> None:
    ring = ring_of(2, frames=3)
    async with aclosing(ring.read(0)) as frames:
        assert await anext(frames) == (1, b"1")
        for number in range(3, 11):
            ring.append(b"%d" % number)
        with pytest.raises(Lagged):
            await anext(frames)


async def test_a_reader_that_gives_up_leaves_the_others_waiting() -> None:
    ring = ring_of(0)
    leaves, stays = (asyncio.create_task(gathered(ring, after=0)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert not stays.done()
    ring.append(b"1")
    ring.close()
    assert await stays == [(1, b"1")]


async def test_a_closed_ring_gives_what_it_keeps_and_takes_nothing() -> None:
    ring = ring_of(2)
    ring.close()
    assert await gathered(ring, 0) == [(1, b"1"), (2, b"2")]
    with pytest.raises(RuntimeError):
        ring.append(b"3")
