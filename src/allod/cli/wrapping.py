"""Line breaks that also suit Chinese and Japanese: between any two characters, but never before closing punctuation.

Rich breaks at spaces only, so a long Chinese sentence after a short Latin word would leave that word alone on its line.
"""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.containers import Lines
from rich.text import Text

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U0001f300-\U0003ffff"
_OPENING = "（《「『【〈〔“‘"
_CLOSING = "，。、；：？！）》」』】〉〕”’…—,.;:?!)%"
_UNIT = re.compile(
    rf"\s*[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}]+|$)[{_CLOSING}]*\s*|\s*[{_OPENING}]+\s*|\s+"
)


def break_offsets(line: str, width: int) -> list[int]:
    """Where to break `line`, as offsets into it, so that no part takes more than `width` cells."""
    breaks: list[int] = []
    used = 0
    for unit in _UNIT.finditer(line):
        cells = cell_len(unit.group().rstrip())
        if used + cells <= width:
            used += cell_len(unit.group())
            continue
        if used and unit.start():
            breaks.append(unit.start())
        used = 0
        for offset, character in enumerate(unit.group().rstrip(), unit.start()):
            cell = cell_len(character)
            if used + cell > width and used:
                breaks.append(offset)
                used = 0
            used += cell
        used += cell_len(unit.group()) - cells
    return breaks


class WrappedText(Text):
    """Rich text with these line breaks."""

    def wrap(
        self,
        console: Console,
        width: int,
        *,
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        tab_size: int = 8,
        no_wrap: bool | None = None,
    ) -> Lines:
        """The lines, none wider than `width`; always left-justified."""
        lines = Lines()
        for line in self.split(allow_blank=True):
            line.expand_tabs(tab_size)
            parts = line.divide(break_offsets(line.plain, max(width, 2)))
            for part in parts:
                part.rstrip()
            lines.extend(parts)
        return lines
