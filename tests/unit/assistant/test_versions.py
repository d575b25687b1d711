"""Each change is a version that stays; versions are compared and brought back; two windows lose nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.unit.assistant.house import Server


async def test_each_change_is_a_version_and_stays(server: Server) -> None:
    before = time.time()
    made = await server.make("Ana", instructions="one")
    for number, change in enumerate(
        ({"instructions": "two"}, {"model": "m", "parameters": {"top_k": 1}}, {"name": "Bo"}), 2
    ):
        after = await server.told("PATCH", f"/assistants/{made['id']}", change)
        assert after["version"] == after["latest_version"] == number
    found = (await server.told("GET", "/assistants/Bo/versions"))["versions"]
    assert [each["version"] for each in found] == [4, 3, 2, 1]
    assert [each["changed"] for each in found] == [["name"], ["model", "parameters"], ["instructions"], []]
    assert all(before <= each["at"] <= time.time() for each in found)
    first = await server.told("GET", "/assistants/Bo/versions/1")
    assert first == made | {"latest_version": 4}
    assert [each for each in await server.events() if each[0] == made["id"]] == [
        (made["id"], 1, "created"),
        *((made["id"], number, "changed") for number in (2, 3, 4)),
    ]


async def test_a_change_that_changes_nothing_is_none(server: Server) -> None:
    made = await server.make("Ana", instructions="one", parameters={"top_p": 1}, tools=["a", "b"])
    before = await server.events()
    for same in (
        {},
        {"name": "Ana"},
        {"parameters": {"top_p": 1.0, "seed": None}},
        {"tools": ["a", "b", "a"]},
        {"instructions": None},
    ):
        assert await server.told("PATCH", "/assistants/Ana", same) == made
    assert await server.told("POST", "/assistants/Ana/restore", {"version": 1}) == made
    assert await server.events() == before


async def test_two_versions_are_compared_field_by_field(server: Server) -> None:
    await server.make("Ana", instructions="one\ntwo\nthree", parameters={"top_k": 1, "seed": 3}, tools=["a"])
    await server.told(
        "PATCH",
        "/assistants/Ana",
        {"instructions": "one\n2\nthree", "parameters": {"top_k": 2, "min_p": 0.1}, "tools": []},
    )
    found = await server.told("GET", "/assistants/Ana/diff")
    assert (found["from"], found["to"]) == (1, 2)
    assert [(each["field"], each["before"], each["after"]) for each in found["fields"]] == [
        ("instructions", "one\ntwo\nthree", "one\n2\nthree"),
        ("tools", ["a"], []),
        ("parameters.top_k", 1, 2),
        ("parameters.seed", 3, None),
        ("parameters.min_p", None, 0.1),
    ]
    assert found["fields"][0]["diff"].split("\n") == [
        "--- before",
        "+++ after",
        "@@ -1,3 +1,3 @@",
        " one",
        "-two",
        "+2",
        " three",
    ]
    assert [each["diff"] for each in found["fields"][1:]] == [""] * 4
    back = await server.told("GET", "/assistants/Ana/diff?from=2&to=1")
    assert {each["field"]: each["before"] for each in back["fields"]} == {
        each["field"]: each["after"] for each in found["fields"]
    }
    assert (await server.told("GET", "/assistants/Ana/diff?from=2&to=2"))["fields"] == []
    assert (await server.told("GET", "/assistants/Ana/diff?to=1")) == {"from": 1, "to": 1, "fields": []}


async def test_an_old_version_comes_back_as_a_new_one(server: Server) -> None:
    made = await server.make("Ana", instructions="one", parameters={"seed": 1})
    await server.told("PATCH", "/assistants/Ana", {"name": "Bo", "instructions": "two"})
    back = await server.told("POST", "/assistants/Bo/restore", {"version": 1})
    assert back["version"] == 3
    assert back == made | {"version": 3, "latest_version": 3, "changed_at": back["changed_at"]}
    (newest, *older) = (await server.told("GET", "/assistants/Ana/versions"))["versions"]
    assert (newest["restored_from"], newest["changed"]) == (1, ["name", "instructions"])
    assert [each["restored_from"] for each in older] == [None, None]
    assert (await server.told("GET", "/assistants/Ana/versions/2"))["instructions"] == "two"


async def test_a_name_that_is_taken_meanwhile_does_not_come_back(server: Server) -> None:
    await server.make("Ana")
    await server.told("PATCH", "/assistants/Ana", {"name": "Bo"})
    await server.make("ana")
    problem = await server.refused(409, "POST", "/assistants/Bo/restore", {"version": 1})
    assert problem["param"] == "name"
    assert (await server.told("GET", "/assistants/Bo"))["version"] == 2


async def test_a_change_made_from_an_older_version_is_refused_and_loses_nothing(server: Server) -> None:
    await server.make("Ana", instructions="one")
    await server.told("PATCH", "/assistants/Ana", {"instructions": "two", "if_version": 1})
    problem = await server.refused(409, "PATCH", "/assistants/Ana", {"description": "d", "if_version": 1})
    assert (problem["code"], problem["param"]) == ("conflict", "if_version")
    assert "version 2" in problem["detail"]
    await server.refused(409, "POST", "/assistants/Ana/restore", {"version": 1, "if_version": 1})
    now = await server.told("GET", "/assistants/Ana")
    assert (now["version"], now["instructions"], now["description"]) == (2, "two", "")


async def test_of_many_windows_one_wins_each_version(server: Server) -> None:
    await server.make("Ana")
    asked = [
        server.ask("PATCH", "/assistants/Ana", {"description": f"by {number}", "if_version": 1})
        for number in range(10)
    ]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status for answer in answers) == [200] + [409] * 9
    (won,) = [answer.json for answer in answers if answer.status == 200]
    assert await server.told("GET", "/assistants/Ana") == won


async def test_windows_that_change_other_fields_at_once_both_hold(server: Server) -> None:
    await server.make("Ana")
    changes: list[dict[str, Any]] = [
        {"description": "d"},
        {"instructions": "i"},
        {"avatar": "a"},
        {"model": "m"},
        {"tools": ["t"]},
    ]
    await asyncio.gather(*(server.told("PATCH", "/assistants/Ana", change) for change in changes))
    now = await server.told("GET", "/assistants/Ana")
    assert now["version"] == 6
    for change in changes:
        assert now.items() >= change.items()


async def test_of_many_of_one_name_one_is_made(server: Server) -> None:
    asked = [server.ask("POST", "/assistants", {"name": name}) for name in ("Ana", "ANA", "ana") * 3]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status for answer in answers) == [201] + [409] * 8


async def test_no_number_is_too_large(server: Server) -> None:
    for body in (
        {"version": 10**30},
        {"version": 2**63},
        {"version": 0},
        {"version": 1, "if_version": 10**30},
    ):
        await server.refused(400, "POST", "/assistants/Allod/restore", body)
    await server.refused(400, "GET", "/assistants/Allod/versions/99999999999999999999")
    await server.refused(400, "GET", "/assistants/Allod/diff?from=99999999999999999999")
    await server.refused(404, "GET", "/assistants/Allod/versions/2147483647")
