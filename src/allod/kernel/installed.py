"""What is installed: the entry points of extensions, what they name, and the order in which they may start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

from allod.kernel.contributions import Contributions
from allod.kernel.faults import Misbehaved
from allod.sdk.extension import API, RESERVED_NAMES, Extension, Manifest

if TYPE_CHECKING:
    from fastapi import APIRouter

GROUP = "allod.extensions"
State = Literal["found", "active", "failed", "refused", "disabled", "stopped"]


class Refused(Exception):
    """Why an extension is not even tried, and what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(slots=True)
class Entry:
    """One installed extension and how it fares."""

    name: str
    point: EntryPoint
    distribution: str = ""
    version: str = ""
    summary: str = ""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    state: State = "found"
    reason: str = ""
    fix: str = ""
    kind: type[Extension[Any]] | None = None
    extension: Extension[Any] | None = None
    has_started: bool = False
    left_behind: tuple[str, ...] = ()  # when it was stopped last
    contributions: Contributions = field(default_factory=Contributions)
    router: APIRouter | None = None

    @property
    def is_builtin(self) -> bool:
        """Whether it came with Allod."""
        return self.distribution == "allod"


def points() -> list[EntryPoint]:
    """The entry points of all extensions that are installed now, by name; of two of one name, Allod's own first."""

    def is_foreign(point: EntryPoint) -> bool:
        return point.dist is None or point.dist.name != "allod"

    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, is_foreign(point), point.value))


def entry_of(point: EntryPoint) -> Entry:
    """An entry for what has only been found."""
    name, version = (point.dist.name, point.dist.version) if point.dist is not None else ("", "")
    fix = f"allod extensions enable {point.name}"
    return Entry(point.name, point, name, version, reason="It was installed and not started yet.", fix=fix)


def loaded(point: EntryPoint) -> Any:
    """What an entry point names. Raises what its import raises, but never ends the program."""
    try:
        return point.load()
    except SystemExit as error:
        raise Misbehaved("it wanted to end the whole program") from error


def checked(kind: Any, name: str) -> type[Extension[Any]]:
    """`kind`, if it is an extension that may enter. Raises Refused."""
    ask = "Ask its author for a version that is in order."
    if not (isinstance(kind, type) and issubclass(kind, Extension)):
        raise Refused("What its entry point names is no Extension.", ask)
    manifest = getattr(kind, "manifest", None)
    if not isinstance(manifest, Manifest):
        raise Refused("It has no manifest.", ask)
    if manifest.api != API:
        newer = "Update Allod." if manifest.api > API else "Update the extension."
        raise Refused(f"It was written for version {manifest.api} of the contract, and this is {API}.", newer)
    if manifest.name != name:
        raise Refused(f"Its manifest calls it {manifest.name!r}, its entry point {name!r}.", ask)
    if manifest.name in RESERVED_NAMES:
        raise Refused(f"The name {manifest.name!r} belongs to Allod itself.", ask)
    return kind


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Those that others need or come after first, else by name. A circle is broken at its first name."""
    by_name = {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}
    ordered: dict[str, Entry] = {}
    open_names: set[str] = set()

    def visit(name: str) -> None:
        if name in ordered or name in open_names or name not in by_name:
            return
        open_names.add(name)
        for before in (*by_name[name].needs, *by_name[name].after):
            visit(before)
        ordered[name] = by_name[name]

    for name in by_name:
        visit(name)
    return list(ordered.values())
