"""A deleted assistant is gone from the file, with all its versions: every page of it is looked through."""

from __future__ import annotations

from pathlib import Path

from allod.testing.house import KEY
from tests.unit.assistant.house import serving
from tests.unit.terminal.house import House
from tests.unit.terminal.test_residue import MARK, hits, logged_pages, pages


async def test_what_was_deleted_is_in_no_page(tmp_path: Path) -> None:
    disk = House(tmp_path)
    disk.key = KEY
    async with serving(tmp_path) as server:
        await server.make(f"{MARK} name", instructions=f"{MARK} one", description=f"{MARK} words")
        for number in range(20):
            long = "long " * (number * 40)
            change = {"instructions": f"{MARK} {number} {long}", "starters": [f"{MARK} start {number}"]}
            await server.told("PATCH", f"/assistants/{MARK} name", change)
        await server.told("PATCH", f"/assistants/{MARK} name", {"name": f"{MARK} other"})
    assert hits(pages(disk)) > 60, "the control: it is there, and is found"
    async with serving(tmp_path) as server:
        await server.told("DELETE", f"/assistants/{MARK} other")
        assert hits(pages(disk)) == 0, "at once, while the server runs"
        assert hits(logged_pages(disk)) == 0
        await server.make("afterwards")
    assert b"afterwards" in b"".join(pages(disk))
    assert hits(pages(disk)) == 0
    assert hits(logged_pages(disk)) == 0
