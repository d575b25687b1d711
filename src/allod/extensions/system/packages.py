"""Which installed packages Allod runs on: what it requires, what that requires, and so on, by their own metadata."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from allod.extensions.system.licences import homepage_of, licence_of, texts_of

# PEP 508: name [extras] version ; marker
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?", re.DOTALL)
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)["']""")

Wanted = tuple[str, frozenset[str]]
"""A package and the extras of it that are asked for."""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package. `said_by`: where its licence is named; `texts`: the files that it brings on its licence."""

    name: str
    version: str
    licence: str
    said_by: str
    homepage: str
    texts: Mapping[str, Path]


class Packages:
    """All that Allod runs on, looked up at the first question and then kept: it changes only with an installation."""

    def __init__(self, root: str = "allod") -> None:
        self._root = root
        self._lock = asyncio.Lock()
        self._found: Sequence[Package] | None = None

    async def all(self) -> Sequence[Package]:
        """All of them, by name."""
        async with self._lock:
            if self._found is None:
                self._found = await asyncio.to_thread(_look_up, self._root)
            return self._found

    async def find(self, name: str) -> Package | None:
        """The one of this name, however that is spelled."""
        wanted = canonical(name)
        return next((each for each in await self.all() if canonical(each.name) == wanted), None)


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _look_up(root: str) -> Sequence[Package]:
    packages = []
    for name, found in sorted(installed_below(root).items()):
        licence, said_by = licence_of(name, found.metadata)
        homepage = homepage_of(found.metadata)
        packages.append(Package(found.name, found.version, licence, said_by, homepage, texts_of(found)))
    return packages


def installed_below(root: str) -> dict[str, Distribution]:
    """The installed packages that `root` runs on, without itself, by canonical name.

    What is meant for another system or another Python is known by not being installed, so its markers need no judge;
    what belongs to an extra counts only where somebody asks for that extra.
    """
    found: dict[str, Distribution] = {}
    seen: set[Wanted] = set()
    waiting: list[Wanted] = [(canonical(root), frozenset())]
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        name, extras = wanted
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # not for this machine
            continue
        waiting += required(found[name].requires or (), extras)
    found.pop(canonical(root), None)
    return found


def required(lines: Sequence[str], extras: frozenset[str]) -> Iterator[Wanted]:
    """What these lines of metadata (Requires-Dist) ask for, where `extras` are asked for."""
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None:  # not the name of a package
            continue
        name, its_extras, marker = match.groups(default="")
        belongs_to = {canonical(extra) for extra in _EXTRA.findall(marker)}
        if not belongs_to or belongs_to & extras:
            yield (
                canonical(name),
                frozenset(canonical(each) for each in its_extras.split(",") if each.strip()),
            )
