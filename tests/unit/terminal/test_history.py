"""What was typed is kept in order, as long as the settings say, and given back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from allod.extensions.terminal.settings import TerminalSettings
from allod.kernel.migrations import Migrator
from allod.sdk.errors import StoreFull
from tests.unit.terminal.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_it_is_given_back_newest_last(house: House) -> None:
    before = time.time()
    async with house.lived_in() as terminal:
        assert await terminal.types("one", "two\n  lines", "三") == [201, 201, 201]
        found = (await terminal.get("/history")).json["history"]
        assert [entry["text"] for entry in found] == ["one", "two\n  lines", "三"]
        assert [entry["id"] for entry in found] == [1, 2, 3]
        assert all(before <= entry["at"] <= time.time() for entry in found)
        assert await terminal.texts("?limit=2") == ["two\n  lines", "三"]


async def test_it_outlives_the_server(house: House) -> None:
    async with house.lived_in() as terminal:
        await terminal.types("one", "two")
    async with house.lived_in() as terminal:
        assert await terminal.texts() == ["one", "two"]
        answer = await terminal.ask("POST", "/history", {"text": "three"})
        assert answer.json == {"id": 3}


async def test_what_is_typed_again_at_once_is_kept_once(house: House) -> None:
    async with house.lived_in() as terminal:
        assert await terminal.types("same", "same", "other", "same", "same ") == [201] * 5
        assert await terminal.texts() == ["same", "other", "same", "same "]
        assert (await terminal.ask("POST", "/history", {"text": "same "})).json == {"id": 4}


async def test_only_the_newest_are_kept(house: House) -> None:
    async with house.lived_in(TerminalSettings(longest_history=3)) as terminal:
        await terminal.types(*"abcdef")
        assert await terminal.texts() == ["d", "e", "f"]
        terminal.set(longest_history=2)
        assert await terminal.texts() == ["e", "f"], "settings are read when they are used"
        await terminal.types("f")
        terminal.set(longest_history=100)
        assert await terminal.texts() == ["e", "f"]


async def test_adding_and_deleting_are_one_transaction(house: House) -> None:
    async with house.lived_in(TerminalSettings(longest_history=2)) as terminal:
        await terminal.types("a", "b")

        def forbid(connection: Connection) -> None:
            connection.execute(
                text(
                    "CREATE TRIGGER terminal__stay BEFORE DELETE ON terminal__history "
                    "BEGIN SELECT RAISE(ABORT, 'not now'); END"
                )
            )

        await terminal.database.write(forbid, "terminal")
        with pytest.raises(Exception, match="IntegrityError"):
            await terminal.types("c")
        assert await terminal.texts("?limit=9") == ["a", "b"]


async def test_switched_off_nothing_is_kept_and_nothing_lost(house: House) -> None:
    async with house.lived_in() as terminal:
        await terminal.types("before")
        terminal.set(keep_history=False)
        answer = await terminal.ask("POST", "/history", {"text": "secret"})
        assert (answer.status, answer.body) == (204, b"")
        assert await terminal.types("x" * 200_000) == [204]
        assert await terminal.texts() == ["before"]


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("x" * 100_000, 201),
        ("x" * 100_001, 400),
        ("é" * 50_000, 201),
        ("é" * 50_001, 400),
        ("", 400),
        (" \n", 400),
        ("half \ud83d", 400),
    ],
)
async def test_a_text_of_up_to_100_kb_is_kept(house: House, typed: str, status: int) -> None:
    async with house.lived_in() as terminal:
        answer = await terminal.ask("POST", "/history", {"text": typed})
        assert answer.status == status
        assert await terminal.texts() == ([typed] if status == 201 else [])
        if status == 400:
            assert answer.json["code"] == "invalid_request"
            assert answer.json["param"] == "text"
            assert answer.json["fix"]
            assert not any(part in answer.body for part in (b"xx", "é".encode(), b"half \\"))


@pytest.mark.parametrize("body", [{}, {"text": 1}, {"text": "a", "at": 1}, []])
async def test_a_wrong_body_is_refused(house: House, body: Any) -> None:
    async with house.lived_in() as terminal:
        assert (await terminal.ask("POST", "/history", body)).status == 422
        assert await terminal.texts() == []


@pytest.mark.parametrize("limit", ["0", "-1", "x", "99999999999999999999"])
async def test_a_wrong_limit_is_refused(house: House, limit: str) -> None:
    async with house.lived_in() as terminal:
        assert (await terminal.get(f"/history?limit={limit}")).status == 422


async def test_all_can_be_deleted(house: House) -> None:
    async with house.lived_in() as terminal:
        await terminal.types("one", "two")
        for _ in range(2):
            answer = await terminal.ask("DELETE", "/history")
            assert (answer.status, answer.body) == (204, b"")
            assert await terminal.texts() == []
        assert (await terminal.ask("POST", "/history", {"text": "new"})).json == {"id": 1}


async def test_a_full_store_is_told_by_the_stores_own_words(house: House) -> None:
    async with house.lived_in() as terminal:
        await terminal.types("one")

        def limit(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        await terminal.database.write(limit)
        answer = await terminal.ask("POST", "/history", {"text": "x" * 50_000})
        assert (answer.status, answer.json["code"]) == (507, StoreFull.code)
        assert await terminal.texts() == ["one"]


async def test_its_table_is_made_once(house: House) -> None:
    async with house.lived_in() as terminal:
        await terminal.types("one")
    async with house.lived_in() as terminal:
        migrations = house.terminal(terminal.database).migrations()
        assert (
            Migrator(terminal.database, house.file.parent / "backups").bring_up("terminal", migrations) == []
        )
        assert await terminal.texts() == ["one"]


async def test_its_table_has_the_shape_that_the_code_expects(house: House) -> None:
    def shape(connection: Connection) -> list[tuple[str, str, int, int]]:
        found = connection.exec_driver_sql(
            "SELECT name, type, \"notnull\", pk FROM pragma_table_info('terminal__history')"
        )
        return [tuple(row) for row in found]

    async with house.lived_in() as terminal:
        assert await terminal.database.read(shape) == [
            ("id", "INTEGER", 1, 1),
            ("text", "VARCHAR", 1, 0),
            ("at", "FLOAT", 1, 0),
        ]
