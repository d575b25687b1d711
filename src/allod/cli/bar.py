"""A progress bar on stderr, for a person who waits at a terminal; nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from allod.cli.output import console, printable

Show = Callable[[str, float | None], None]
"""What is under way, and how far, from 0 to 1; None where nobody knows."""


@contextlib.contextmanager
def bar() -> Iterator[Show]:
    """What shows progress; the bar is wiped away at the end of the context."""
    if not sys.stderr.isatty():
        yield lambda text, fraction: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(text: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            progress.update(task, description=printable(text), total=total, completed=min(fraction or 0, 1))

        yield show
