"""Passwords and tokens of other services. They are no settings: they are never listed, exported or logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Secrets(Protocol):
    """An extension's own secrets."""

    async def get(self, name: str) -> str | None:
        """The secret of this name, None if there is none."""
        ...

    async def set(self, name: str, value: str) -> None:
        """Keep a secret, in place of one of the same name."""
        ...

    async def forget(self, name: str) -> None:
        """Drop a secret; nothing happens if there is none."""
        ...

    async def names(self) -> Sequence[str]:
        """The names of all secrets."""
        ...
