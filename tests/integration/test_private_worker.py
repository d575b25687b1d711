"""A worker of their own for words that are to leave nothing: beside the shared one, and gone with all it was told."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.kernel.house import House
from allod.sdk.chat import Caller, ChatRequest, Purpose, Run
from allod.sdk.engine import ModelId
from allod.sdk.stream import TextDelta
from allod.testing.house import standing
from tests.conftest import MODEL
from tests.http_client import user
from tests.integration.in_process import LLAMACPP, SMALL, children, engine

PURPOSES: tuple[Purpose, ...] = ("chat", "private")
_ID = ModelId(MODEL)
_CANARY = "Zeisig-2718-黄雀"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with standing(tmp_path / "home", [LLAMACPP], settings=SMALL) as house:
        yield house


async def answer(house: House, text: str, purpose: Purpose, **parameters: Any) -> str:
    request = ChatRequest(model="jan", messages=user(text), max_tokens=8, parameters=parameters)
    opened = await house.pipeline.open(Run(request, Caller(), "/test", purpose=purpose))
    async with aclosing(opened.events()) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


def worker(house: House, purpose: Purpose) -> psutil.Process | None:
    found = engine(house).worker(_ID, purpose)
    return psutil.Process(found.child.pid) if found is not None else None


async def test_two_workers_of_one_model_answer_side_by_side(house: House) -> None:
    request = ChatRequest(
        model="jan", messages=user("Write."), max_tokens=400, parameters={"ignore_eos": True}
    )
    opened = await house.pipeline.open(Run(request, Caller(), "/test"))
    async with aclosing(opened.events()) as events:
        await anext(events)  # the one slot of the shared worker is at work from here on
        assert await answer(house, "Say hi.", "private")
        assert house.models.state(_ID) == "busy"
    shared, private = worker(house, "chat"), worker(house, "private")
    assert shared is not None and private is not None
    assert shared.pid != private.pid
    rows = {str(row["purpose"]): row for row in house.models.report()}
    assert {row["model"] for row in rows.values()} == {MODEL}
    assert rows["private"]["memory_bytes"] != 0
    assert rows["private"]["pinned"] is False


async def test_unloading_the_private_worker_ends_its_process_and_leaves_the_shared_one(house: House) -> None:
    for purpose in PURPOSES:
        await answer(house, "Say hi.", purpose)
    shared, private = worker(house, "chat"), worker(house, "private")
    assert shared is not None and private is not None
    await house.models.unload(_ID, "private")
    assert not private.is_running()
    assert worker(house, "private") is None
    assert (house.models.state(_ID), house.models.state(_ID, "private")) == ("ready", "stopped")
    assert shared.is_running()
    assert await answer(house, "Say hi.", "chat")


async def test_the_weights_are_in_memory_once(house: House) -> None:
    for purpose in PURPOSES:
        await answer(house, "Say hi.", purpose)
    rows = house.models.report()
    assert len(rows) == 2
    weights = (await house.models.find("jan")).size_bytes
    assert {row["shared_bytes"] for row in rows} == {weights}
    planned: Any = [row["planned_bytes"] for row in rows]
    assert max(planned) - min(planned) < 1 << 20


def copies_in(process: psutil.Process, words: bytes) -> int:
    """How often these bytes are in the memory of a process, whatever is mapped there."""
    found = 0
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    with Path(f"/proc/{process.pid}/mem").open("rb", 0) as memory:
        for line in maps:
            place, rights, *_ = line.split()
            if rights[0] != "r" or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            rest = b""
            while start < end:
                try:
                    block = os.pread(memory.fileno(), min(1 << 24, end - start), start)
                except OSError:  # behind the end of a mapped file
                    break
                found += (rest + block).count(words)
                rest = block[1 - len(words) :]
                start += len(block)
                if not block:
                    break
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_after_its_end_no_process_of_ours_holds_a_word_of_a_private_chat(house: House) -> None:
    if os.getuid() != 0:
        pytest.skip("a worker hides its memory from its own user; only root can look")
    words = _CANARY.encode()
    await answer(house, "Say hi.", "chat")
    await answer(house, f"Remember {_CANARY}.", "private")
    await answer(house, "And now?", "private")  # the first chat moves into that worker's prompt cache
    request = ChatRequest(model="jan", messages=user(f"Count {_CANARY}."))
    assert await house.models.count_tokens(request, "private") > 0
    private, shared = worker(house, "private"), worker(house, "chat")
    assert private is not None and shared is not None
    assert copies_in(private, words) > 0  # so this way of looking finds it
    assert copies_in(shared, words) == 0

    await house.models.unload(_ID, "private")
    assert await house.models.count_tokens(request, "private") > 0  # by one that ends with the question
    assert [child.pid for child in children()] == [shared.pid]
    assert copies_in(shared, words) == 0
