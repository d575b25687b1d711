"""The file by which `allod open` leads a browser in: a token must not stand in a command line, which all may read."""

from __future__ import annotations

import asyncio
import html
import os
from pathlib import Path

from allod.kernel.sessions import TOKEN_S

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={address}">
<title>Allod</title>
<a href="{address}">Allod</a>
"""


class DoorFile:
    """One file in a 0700 folder; it goes when its token was used, or after a minute."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._file = folder / "open.html"
        self._removal: asyncio.TimerHandle | None = None

    async def write(self, token: str) -> str:
        """Write it anew, and say where it lies."""
        address = html.escape(f"{self.url}/#token={token}")
        await asyncio.to_thread(self._write, _PAGE.format(address=address))
        self._forget_timer()
        self._removal = asyncio.get_running_loop().call_later(TOKEN_S, self._unlink)
        return str(self._file)

    async def remove(self) -> None:
        """Take it away."""
        self._forget_timer()
        await asyncio.to_thread(self._unlink)

    def _forget_timer(self) -> None:
        if self._removal is not None:
            self._removal.cancel()

    def _write(self, text: str) -> None:
        self._unlink()
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def _unlink(self) -> None:
        self._file.unlink(missing_ok=True)
