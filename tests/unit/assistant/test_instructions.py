"""Variables in instructions are filled in; all else stays as it was written."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.assistant.instructions import filled
from allod.sdk.errors import NotFound
from tests.unit.assistant.house import Server, serving
from tests.unit.assistant.test_assistants import WHOLE

NOON = datetime(2026, 3, 5, 12, 4, 59)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Help {user_name}.", "Help Ada."),
        ("Today is {date}.", "Today is Thursday, 2026-03-05."),
        ("今天是{date}。", "今天是2026-03-05 星期四。"),
        ("It is {time}, {time}.", "It is 12:04, 12:04."),
        ("{{date}} { date } {Date} {dates} {} {0} {user} {'a': {}}", None),
        ("{{user_name}}", "{Ada}"),
        ("", ""),
    ],
)
def test_only_variables_are_filled_in(written: str, read: str | None) -> None:
    if read is None:
        read = written.replace("{date}", "Thursday, 2026-03-05")
    assert filled(written, "Ada", NOON) == read


@pytest.mark.parametrize(
    ("written", "name", "read"),
    [
        ("Help {user_name}.", "", "Help the user."),
        ("Help {user_name}.", " ", "Help the user."),
        ("帮助{user_name}。", "", "帮助用户。"),
        ("帮助{user_name}。", "小明", "帮助小明。"),
        ("{user_name} {date}", "{date}", "{date} Thursday, 2026-03-05"),
        ("{user_name}", r"\1", r"\1"),
    ],
)
def test_a_name_is_taken_as_it_is_and_may_be_missing(written: str, name: str, read: str) -> None:
    assert filled(written, name, NOON) == read


@given(st.text().filter(lambda text: not any(name in text for name in ("{user_name}", "{date}", "{time}"))))
def test_a_text_without_variables_stays(text: str) -> None:
    assert filled(text, "Ada", NOON) == text


@given(st.text())
def test_without_the_time_instructions_are_the_same_all_day(text: str) -> None:
    text = f"{text}{{date}}{{user_name}}".replace("{time}", "")
    morning, evening = NOON.replace(hour=0, minute=0), NOON.replace(hour=23, minute=59)
    assert filled(text, "Ada", morning) == filled(text, "Ada", evening)


# what other extensions are given


async def test_a_chat_gets_the_default_one_ready_to_be_used(server: Server) -> None:
    allod = await server.service.get()
    assert (allod.name, allod.version, allod.model, allod.memory_only) == ("Allod", 1, "", False)
    assert "{" not in allod.instructions
    assert f"{datetime.now():%Y-%m}" in allod.instructions
    assert allod.parameters["temperature"] == 0.8


async def test_a_chat_gets_one_by_name_or_id_as_it_is_or_was(tmp_path: Path) -> None:
    async with serving(tmp_path, {"user_name": "Ada"}) as server:
        made = await server.make(**WHOLE)
        ana = await server.service.get("ANA")
        assert (ana.id, ana.version, ana.name, ana.model) == (made["id"], 1, "Ana", "qwen")
        assert ana.instructions == "Answer Ada.\nMind {braces}."
        assert ana.parameters == WHOLE["parameters"]
        assert ana.tools == ("notes_find", "web_fetch")
        assert ana.knowledge == ("knowledge_1",)
        assert ana.memory_only
        await server.told("PATCH", "/assistants/Ana", {"name": "Bo", "memory_only": False})
        assert await server.service.get(made["id"], 1) == ana
        now = await server.service.get(made["id"])
        assert (now.name, now.version, now.memory_only) == ("Bo", 2, False)
        await server.told("PUT", "/default", {"assistant": "Bo"})
        assert (await server.service.get()).id == made["id"]


async def test_a_new_name_of_the_user_counts_at_once(server: Server) -> None:
    await server.make("Ana", instructions="Help {user_name}.")
    assert (await server.service.get("Ana")).instructions == "Help the user."
    await server.house.settings.change("assistant", {"user_name": "Ada"})
    assert (await server.service.get("Ana")).instructions == "Help Ada."


async def test_a_chat_is_told_who_is_not_there(server: Server) -> None:
    for wanted in (("nobody", None), ("Allod", 2), ("", None)):
        with pytest.raises(NotFound):
            await server.service.get(*wanted)
