"""The file by which `allod open` leads a browser in: a token must not stand in a command line, which all may read."""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
from pathlib import Path

from allod.kernel.disk import of_disk
from allod.kernel.sessions import TOKEN_S

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={address}">
<title>Allod</title>
<a href="{address}">Allod</a>
"""


class DoorFile:
    """Files in a 0700 folder, one for each token; each goes when its token was used, or after a minute."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder
        for left in folder.glob("open-*.html"):
            left.unlink(missing_ok=True)

    async def write(self, token: str) -> str:
        """Write one, and say where it lies. Raises StoreFull, StoreReadOnly."""
        address = html.escape(f"{self.url}/#token={token}")
        file = self._file(token)
        await asyncio.to_thread(_write, file, _PAGE.format(address=address))
        asyncio.get_running_loop().call_later(TOKEN_S, lambda: file.unlink(missing_ok=True))
        return str(file)

    async def remove(self, token: str) -> None:
        """Take that of this token away."""
        await asyncio.to_thread(self._file(token).unlink, missing_ok=True)

    def _file(self, token: str) -> Path:
        return self._folder / f"open-{hashlib.sha256(token.encode()).hexdigest()[:16]}.html"


def _write(file: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
    except OSError as error:
        raise of_disk(error) from error
