"""An answer on the screen while it comes.

Blocks of Markdown that are complete are printed for good and scroll away; only the block that still grows is drawn
anew, a few times a second, and never more of it than the screen holds: so nothing flickers and nothing is cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

from allod.cli.answer import Piece
from allod.cli.markdown import ScreenLine, render_markdown, render_thought, split_blocks, split_lines
from allod.cli.output import console, printable

_SHORTEST_PAUSE_S = 0.06


class LiveScreen:
    """The text as rendered Markdown, the thoughts dim."""

    def __init__(self) -> None:
        self._console = console()
        self._kind = "text"
        self._open = ""
        self._drawn_cells: list[int] = []  # the width of each line that is drawn, but not for good
        self._has_printed = False
        self._next_draw = 0.0

    def __enter__(self) -> LiveScreen:
        self._console.show_cursor(False)
        return self

    def show(self, piece: Piece) -> None:
        """Add a piece; it is drawn soon."""
        if piece.kind != self._kind:
            self._settle_all()
            self._kind = piece.kind
        self._open += printable(piece.text)
        started = time.monotonic()
        if started >= self._next_draw:
            self._draw()
            ended = time.monotonic()
            self._next_draw = ended + max(_SHORTEST_PAUSE_S, 3 * (ended - started))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle_all()
        self._console.show_cursor(True)

    def _blocks(self, source: str) -> list[str]:
        return split_blocks(source) if self._kind == "text" else split_lines(source)

    def _draw(self) -> None:
        """Settle all but the last block: what comes can still change that one, and only that one."""
        whole_lines = self._open.rfind("\n") + 1
        complete = self._blocks(self._open[:whole_lines])[:-1]
        self._open = self._open[sum(map(len, complete)) :]
        settled = self._settled(complete)
        growing = self._render(self._open)
        self._replace(settled, growing[-max(self._console.height - 1, 1) :])

    def _settle_all(self) -> None:
        self._replace(self._settled(self._blocks(self._open)), [])
        self._open = ""

    def _settled(self, blocks: list[str]) -> list[ScreenLine]:
        """The lines of blocks that are about to be printed for good."""
        settled = []
        for block in blocks:
            if lines := self._render(block):
                settled += lines
                self._has_printed = True
        return settled

    def _render(self, block: str) -> list[ScreenLine]:
        if self._kind == "thought":
            return render_thought(self._console, block)
        lines = render_markdown(self._console, block)
        if lines and self._has_printed:
            lines.insert(0, [])
        return lines

    def _replace(self, settled: list[ScreenLine], growing: list[ScreenLine]) -> None:
        """Replace what is drawn by lines for good and lines until the next draw, in one write: nothing flickers."""
        width, height = self._console.size
        rows = sum(
            max(1, -(-cells // width)) for cells in self._drawn_cells
        )  # more than lines once it is narrower
        wiped = "\r" + "\x1b[1A".join(["\x1b[2K"] * min(rows, height)) if rows else ""
        with self._console.capture() as capture:
            self._console.print(_Lines([*settled, *growing]), end="")
        text = capture.get()
        self._console.file.write(wiped + (text.removesuffix("\n") if growing else text))
        self._console.file.flush()
        self._drawn_cells = [Segment.get_line_length(line) for line in growing]


class _Lines:
    """Lines that are rendered already."""

    def __init__(self, lines: Sequence[ScreenLine]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()
