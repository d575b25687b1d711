"""An answer as plain text while it comes."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from allod.cli.answer import Piece
from allod.cli.output import printable


class Screen(Protocol):
    """Shows the pieces of one answer."""

    def show(self, piece: Piece) -> None:
        """Add a piece."""
        ...

    def __enter__(self) -> Screen: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainScreen:
    """The text as it comes; thoughts are left out."""

    def __init__(self) -> None:
        self._last = "\n"

    def __enter__(self) -> PlainScreen:
        return self

    def show(self, piece: Piece) -> None:
        """Print a piece at once."""
        if piece.kind == "text":
            self._last = printable(piece.text) if sys.stdout.isatty() else piece.text
            sys.stdout.write(self._last)
            sys.stdout.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._last.endswith("\n"):
            print(flush=True)
