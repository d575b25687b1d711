"""Assistants are made, found, changed, copied and deleted; one is always the default one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from allod.extensions.assistant.presets import BUILT_IN, PRESETS
from allod.sdk.events import AssistantChanged
from tests.unit.assistant.house import Server, serving

WHOLE: dict[str, Any] = {
    "name": "Ana",
    "avatar": "👩‍💻",
    "description": "Reads code.",
    "instructions": "Answer {user_name}.\nMind {braces}.",
    "model": "qwen",
    "parameters": {"temperature": 0.3, "top_k": 20, "stop": ["END"], "seed": 7, "max_tokens": 500},
    "tools": ["notes_find", "web_fetch"],
    "knowledge": ["knowledge_1"],
    "starters": ["Look at this:", "Why does it fail?"],
    "memory_only": True,
}


async def test_there_is_one_at_the_first_start_and_it_is_made_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        found = await server.told("GET", "/assistants")
        (allod,) = found["assistants"]
        assert found["default"] == allod["id"]
        assert (allod["name"], allod["version"], allod["is_default"]) == ("Allod", 1, True)
        assert allod["instructions"] == BUILT_IN.instructions
        assert allod["preset"] == "balanced"
        assert await server.events() == [(allod["id"], 1, "created"), (allod["id"], 1, "default")]
        await server.told("PATCH", "/assistants/Allod", {"name": "Mine", "instructions": ""})
    async with serving(tmp_path) as server:
        (mine,) = (await server.told("GET", "/assistants"))["assistants"]
        assert (mine["id"], mine["name"], mine["version"]) == (allod["id"], "Mine", 2)


async def test_all_that_was_said_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        made = await server.make(**WHOLE)
        assert made.items() >= WHOLE.items()
        assert (made["version"], made["latest_version"], made["is_default"]) == (1, 1, False)
        assert made["id"].startswith("assistant_")
        assert made["created_at"] == pytest.approx(made["changed_at"], abs=1)
    async with serving(tmp_path) as server:
        assert await server.told("GET", f"/assistants/{made['id']}") == made
        assert (await server.events())[-1] == (made["id"], 1, "created")


async def test_only_the_name_is_needed(server: Server) -> None:
    made = await server.make("Bo")
    empty = {"avatar": "", "instructions": "", "model": "", "parameters": {}, "tools": [], "preset": ""}
    assert made.items() >= empty.items()


@pytest.mark.parametrize("name", ["ana maria", "ANA  MARIA", "ＡＮＡ maria", " Ana Maria "])
async def test_a_name_is_found_and_taken_whatever_its_case(server: Server, name: str) -> None:
    made = await server.make("Ana Maria")
    assert (await server.told("GET", f"/assistants/{name}"))["id"] == made["id"]
    problem = await server.refused(409, "POST", "/assistants", {"name": name})
    assert (problem["code"], problem["param"]) == ("conflict", "name")
    other = await server.make("Other")
    await server.refused(409, "PATCH", "/assistants/Other", {"name": name})
    assert (await server.told("GET", f"/assistants/{other['id']}"))["version"] == 1
    assert (await server.told("PATCH", f"/assistants/{made['id']}", {"name": name}))["name"] == name.strip()


async def test_they_are_listed_by_name(server: Server) -> None:
    for name in ("zoe", "Bo", "小明", "ana"):
        await server.make(name)
    assert await server.names() == ["Allod", "ana", "Bo", "zoe", "小明"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "name", "required"),
        ({"name": ""}, "name", "at least 1"),
        ({"name": "  "}, "name", "at least 1"),
        ({"name": "a" * 81}, "name", "at most 80"),
        ({"name": "a/b"}, "name", "no '/'"),
        ({"name": ".."}, "name", "dots"),
        ({"name": "assistant_0a1b"}, "name", "id"),
        ({"name": "Ａssistant_0A1B"}, "name", "id"),
        ({"name": "a\nb"}, "name", "one line"),
        ({"name": 1}, "name", "string"),
        ({"avatar": "a" * 17}, "avatar", "at most 16"),
        ({"instructions": "a" * 100_001}, "instructions", "at most 100000"),
        ({"tools": ["no tool"]}, "tools.0", "match"),
        ({"starters": ["a", ""]}, "starters.1", "at least 1"),
        ({"starters": ["a"] * 13}, "starters", "at most 12"),
        ({"memory_only": "yes"}, "memory_only", "boolean"),
        ({"preset": "wild"}, "preset", "'balanced'"),
        ({"colour": "red"}, "colour", "not permitted"),
        ({"parameters": {"temperature": 3}}, "parameters.temperature", "less than or equal to 2"),
        ({"parameters": {"temprature": 0.5}}, "parameters", "the nearest is 'temperature'"),
    ],
)
async def test_what_does_not_fit_is_named_and_not_quoted(
    server: Server, fields: dict[str, Any], param: str, said: str
) -> None:
    body = {"name": "Fine", **fields} if fields else {}
    for method, path in (("POST", "/assistants"), ("PATCH", "/assistants/Allod")):
        if not fields and method == "PATCH":
            continue
        problem = await server.refused(400, method, path, body)
        assert (problem["code"], problem["param"]) == ("invalid_request", param)
        assert said in problem["detail"]
        assert "aaaa" not in problem["detail"]
    assert await server.names() == ["Allod"]


async def test_half_a_character_is_refused(server: Server) -> None:
    await server.refused(400, "POST", "/assistants", {"name": "half \ud83d"})
    await server.refused(400, "PATCH", "/assistants/Allod", {"parameters": {"grammar": "half \ud83d"}})
    assert await server.names() == ["Allod"]


async def test_a_change_leaves_the_rest(server: Server) -> None:
    made = await server.make(**WHOLE)
    after = await server.told("PATCH", "/assistants/ana", {"model": "", "avatar": None, "tools": []})
    assert after == made | {
        "version": 2,
        "latest_version": 2,
        "model": "",
        "tools": [],
        "changed_at": after["changed_at"],
    }
    replaced = await server.told("PATCH", "/assistants/ana", {"parameters": {"top_p": 1}})
    assert replaced["parameters"] == {"top_p": 1.0}


async def test_presets_explain_themselves_and_are_copied(server: Server) -> None:
    presets = (await server.told("GET", "/presets"))["presets"]
    assert [each["name"] for each in presets] == ["precise", "balanced", "creative"]
    for each in presets:
        assert each["title"] and "temperature" in each["explanation"]
        assert set(each["parameters"]) == {"temperature", "top_k", "top_p", "min_p"}
    by_name = {each["name"]: each["parameters"] for each in presets}
    assert by_name["precise"]["temperature"] < 0.7 <= by_name["balanced"]["temperature"] <= 0.9
    assert by_name["creative"]["temperature"] > 0.9
    made = await server.make("Ana", preset="precise", parameters={"seed": 7, "top_k": 5})
    assert made["parameters"] == by_name["precise"] | {"seed": 7, "top_k": 5}
    assert made["preset"] == "", "one of its numbers is another"
    after = await server.told("PATCH", "/assistants/Ana", {"preset": "creative"})
    assert after["parameters"] == by_name["creative"] | {"seed": 7}
    assert after["preset"] == "creative"
    unset = {"preset": "balanced", "parameters": {"seed": None}}
    assert (await server.told("PATCH", "/assistants/Ana", unset))["parameters"] == by_name["balanced"]


async def test_the_presets_in_the_shape_of_a_body_are_the_ones_there_are(server: Server) -> None:
    for preset in PRESETS:
        assert (await server.make(preset.title, preset=preset.name))["preset"] == preset.name


async def test_a_copy_has_its_own_name_and_life(server: Server) -> None:
    made = await server.make(**WHOLE)
    await server.told("PATCH", "/assistants/Ana", {"description": "Reads."})
    names = [(await server.told("POST", f"/assistants/{made['id']}/duplicate"))["name"] for _ in range(2)]
    assert names == ["Ana (2)", "Ana (3)"]
    copy = await server.told("POST", "/assistants/Ana (3)/duplicate", {"name": "Bo"})
    assert copy.items() >= (WHOLE | {"name": "Bo", "description": "Reads.", "version": 1}).items()
    assert copy["id"] != made["id"]
    assert (await server.told("POST", "/assistants/Ana (3)/duplicate", {}))["name"] == "Ana (4)"
    await server.refused(409, "POST", "/assistants/Ana/duplicate", {"name": "BO"})
    await server.told("DELETE", "/assistants/Ana")
    assert (await server.told("GET", "/assistants/Bo")) == copy


async def test_another_may_be_the_default_one_and_then_the_first_may_go(server: Server) -> None:
    allod = (await server.told("GET", "/assistants"))["default"]
    for _ in range(2):
        problem = await server.refused(409, "DELETE", "/assistants/Allod")
        assert "allod assistants default" in problem["fix"]
        made = await server.make(f"Bo{_}")
    chosen = await server.told("PUT", "/default", {"assistant": "bo1"})
    assert (chosen["id"], chosen["is_default"], chosen["version"]) == (made["id"], True, 1)
    assert (await server.told("GET", "/assistants"))["default"] == made["id"]
    assert (await server.events())[-1] == (made["id"], 1, "default")
    before = await server.events()
    await server.told("PUT", "/default", {"assistant": made["id"]})
    assert await server.events() == before, "it was so already"
    await server.told("DELETE", f"/assistants/{allod}")
    assert (await server.events())[-1] == (allod, 1, "deleted")
    assert await server.names() == ["Bo0", "Bo1"]
    assert (await server.refused(404, "GET", "/assistants/Allod"))["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/assistants/nobody", None),
        ("PATCH", "/assistants/nobody", {"name": "x"}),
        ("DELETE", "/assistants/nobody", None),
        ("POST", "/assistants/nobody/duplicate", None),
        ("GET", "/assistants/nobody/export", None),
        ("GET", "/assistants/nobody/versions", None),
        ("GET", "/assistants/nobody/versions/1", None),
        ("GET", "/assistants/Allod/versions/2", None),
        ("GET", "/assistants/Allod/diff?from=2", None),
        ("GET", "/assistants/Allod/diff?to=9", None),
        ("POST", "/assistants/Allod/restore", {"version": 2}),
        ("PUT", "/default", {"assistant": "nobody"}),
    ],
)
async def test_who_is_not_there_is_not_found(server: Server, method: str, path: str, body: Any) -> None:
    before = await server.events()
    problem = await server.refused(404, method, path, body)
    assert "allod assistants" in problem["fix"]
    assert await server.events() == before


async def test_looking_changes_nothing(server: Server) -> None:
    before = (await server.events(), await server.told("GET", "/assistants"))
    for path in ("", "/versions", "/versions/1", "/diff", "/export"):
        await server.told("GET", f"/assistants/Allod{path}")
    await server.told("GET", "/presets")
    assert (await server.events(), await server.told("GET", "/assistants")) == before


async def test_another_window_hears_of_each_change_at_once(server: Server) -> None:
    heard: list[str] = []
    is_deleted = asyncio.Event()

    async def hear(event: AssistantChanged) -> None:
        heard.append(event.change)
        if event.change == "deleted":
            is_deleted.set()

    end = server.house.events.of("test").subscribe(AssistantChanged, hear)
    await server.make("Ana")
    await server.told("PATCH", "/assistants/Ana", {"model": "m"})
    await server.told("PUT", "/default", {"assistant": "Ana"})
    await server.told("DELETE", "/assistants/Allod")
    await asyncio.wait_for(is_deleted.wait(), 10)
    end()
    assert heard == ["created", "changed", "default", "deleted"]


async def test_where_none_is_the_default_one_there_is_one_after_the_next_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:

        def lose(connection: Any) -> None:
            connection.exec_driver_sql("UPDATE assistant__assistants SET is_default = 0")

        await server.house.database.write(lose, "assistant")
    async with serving(tmp_path) as server:
        assert await server.names() == ["Allod", "Allod (2)"]
        assert (await server.told("GET", "/assistants/Allod (2)"))["is_default"]
