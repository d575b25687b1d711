"""How results reach the screen: JSON, tables and notes, the same from every command."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_UNBOUNDED_WIDTH = 10_000


def printable(text: str) -> str:
    """`text` without the control characters by which a model's or a file's words could steer the terminal."""
    return _UNPRINTABLE.sub("", text)


def console(*, stderr: bool = False) -> Console:
    """Rich's console, taking text as it is: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show_json(value: Any, *, one_line: bool = False) -> None:
    """Print `value` as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2), flush=True)


def show_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table; `right` are the columns of numbers. In a pipe nothing is cut or wrapped. No heads: none shown."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(heads))
    for index, head in enumerate(heads or [""] * max(map(len, rows), default=0)):
        table.add_column(Text(head), justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    screen = console()
    if not screen.is_terminal:
        screen.width = _UNBOUNDED_WIDTH
    with screen.capture() as capture:
        screen.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one thing, a line for each fact; those without a value are left out."""
    show_table((), [fact for fact in facts if fact[1]])


def tell(text: str = "") -> None:
    """Say something to a person at a terminal: control characters taken out, lines broken between words."""
    from rich.console import Group

    from allod.cli.wrapping import WrappedText

    # A text by itself would be joined into a plain one, which wraps otherwise.
    console().print(Group(WrappedText(printable(text))))


def note(text: str) -> None:
    """Say something to the person, beside the results: on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def moment(seconds: float | None) -> str:
    """A time, in seconds since 1970, for people of this place, "" for none."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def size(count: float | None) -> str:
    """A number of bytes for people, "" for none."""
    if not count:
        return ""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if count >= 99.5 or unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """A time span for people, "" for none."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
