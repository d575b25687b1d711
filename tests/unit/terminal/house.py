"""The extension on a real store, as the server builds it: one database, its own part of it, its tables up to date."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from allod.extensions.terminal.extension import Terminal
from allod.extensions.terminal.settings import TerminalSettings
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database, OwnStore
from tests.unit.system.asked import Asker, OwnContext


class House:
    """A data folder with a key, in which the extension may live again and again."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "allod.db"
        self.key = os.urandom(32)
        self._backups = folder / "backups"

    def terminal(self, database: Database, settings: TerminalSettings | None = None) -> Terminal:
        """The extension, its tables brought up to date."""
        store = OwnStore(database, "terminal")
        context = OwnContext(settings or TerminalSettings(), self.file.parent, store)
        extension = Terminal(cast(Any, context))
        Migrator(database, self._backups).bring_up("terminal", extension.migrations())
        return extension

    @contextlib.asynccontextmanager
    async def lived_in(self, settings: TerminalSettings | None = None) -> AsyncIterator[Dweller]:
        """The extension while it runs."""
        database = Database(self.file, self.key)
        try:
            yield Dweller(self.terminal(database, settings), database)
        finally:
            await database.close()


class Dweller(Asker):
    """The running extension, asked over HTTP."""

    def __init__(self, extension: Terminal, database: Database) -> None:
        super().__init__(extension)
        self.database = database
        self._context = cast(OwnContext, extension.context)

    def set(self, **changes: Any) -> None:
        """Change settings while it runs."""
        self._context.settings = TerminalSettings(**changes)

    async def types(self, *texts: str) -> list[int]:
        """Add each text, and return the statuses."""
        return [(await self.ask("POST", "/history", {"text": text})).status for text in texts]

    async def texts(self, query: str = "") -> list[str]:
        """What is kept."""
        answer = await self.get(f"/history{query}")
        assert answer.status == 200, answer.body
        return [entry["text"] for entry in answer.json["history"]]
