"""The history of `allod chat`: what was typed there, in the encrypted store, so that it can be called back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from allod.extensions.terminal.settings import TerminalSettings
from allod.extensions.terminal.store import MIGRATIONS, History
from allod.sdk.extension import Extension, Manifest
from allod.sdk.storage import Migration

if TYPE_CHECKING:
    from fastapi import APIRouter


class Terminal(Extension[TerminalSettings]):
    """Keeps lines in the order in which they were typed, and gives them back."""

    manifest = Manifest(
        name="terminal",
        summary="Keeps what was typed in `allod chat`, encrypted, so that it can be called back.",
    )

    def migrations(self) -> Sequence[Migration]:
        """The one table."""
        return MIGRATIONS

    def router(self) -> APIRouter:
        """Routes under /api/terminal."""
        from allod.extensions.terminal.routes import build

        return build(self.context, History(self.context.store))
