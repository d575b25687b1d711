"""Finds extensions by the entry-point group `allod.extensions`, starts and stops them, and leaves out those that fail.

Each is walled in by `try`: whatever one does wrong, it is named with the reason and the next step, and the rest runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Literal, Protocol

from allod.kernel import custody
from allod.kernel.contributions import Contributions, gather
from allod.kernel.faults import Mistyped, is_fault, words_of
from allod.kernel.installed import Entry, Refused, State, checked, entry_of, in_order, loaded, points
from allod.sdk.engine import Engine
from allod.sdk.errors import AllodError, Conflict, NotFound
from allod.sdk.events import ExtensionStateChanged
from allod.sdk.extension import Check, Extension

if TYPE_CHECKING:
    from fastapi import APIRouter

START_S = 10
_UPDATE = "Update it, or uninstall it, or switch it off: allod extensions disable {name}"
_log = logging.getLogger("allod.host")


class Rooms(Protocol):
    """What the host needs of the kernel for one extension: made by house.py."""

    async def context(self, kind: type[Extension[Any]]) -> Any:
        """Its context, with its settings read."""
        ...

    async def migrate(self, extension: Extension[Any]) -> None:
        """Bring its tables up to date."""
        ...

    async def seat(self, name: str, contributions: Contributions) -> None:
        """Hand what it contributes to who uses it."""
        ...

    async def unseat(self, name: str, contributions: Contributions) -> None:
        """Take all of that back, its jobs and handlers included. Nothing of it runs afterwards but `stop`."""
        ...

    async def clear(self, name: str) -> list[str]:
        """End what it left behind: tasks, children, transfers. Says what that was."""
        ...

    def reorder(self, names: Sequence[str]) -> None:
        """These run now, in this order."""
        ...

    async def disabled(self) -> set[str]:
        """Names of those that the user has switched off."""
        ...

    async def set_enabled(self, name: str, enabled: bool) -> None:
        """Keep the user's choice."""
        ...

    def publish(self, event: ExtensionStateChanged) -> None:
        """Tell it."""
        ...


class Host:
    """The extensions of one server. `builtin_only` leaves all others out: the safe mode.

    `points` says what is installed.
    """

    def __init__(
        self, rooms: Rooms, *, builtin_only: bool = False, points: Callable[[], Sequence[EntryPoint]] = points
    ) -> None:
        self._rooms = rooms
        self._points = points
        self._builtin_only = builtin_only
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []  # in which they were started
        self._has_doors = False
        self._one_at_a_time = asyncio.Lock()
        self.changed: Callable[[], Awaitable[None]] | None = None
        """Called after an extension was started or stopped."""

    # what there is

    def entries(self) -> list[Entry]:
        """All that are installed, those that run first, in the order in which they were started."""
        running = [self._entries[name] for name in self._order]
        return running + [entry for name, entry in sorted(self._entries.items()) if name not in self._order]

    def active(self) -> list[Extension[Any]]:
        """Those that run, in the order in which they were started."""
        return [entry.extension for entry in self.entries() if entry.extension is not None]

    def packages(self) -> list[tuple[str, str]]:
        """Each name, and the package that its code is in."""
        kinds = [(entry.name, entry.kind) for entry in list(self._entries.values()) if entry.kind is not None]
        return [(name, kind.__module__.removesuffix(".extension")) for name, kind in kinds]

    def engines(self) -> list[Engine]:
        """The engines of those that run, Allod's own first: whoever installs another keeps the default model."""
        ordered = sorted(self.entries(), key=lambda entry: not entry.is_builtin)
        return [engine for entry in ordered for engine in entry.contributions.engines]

    def routers(self) -> Mapping[str, APIRouter]:
        """The routers of those that run, by name."""
        return {entry.name: entry.router for entry in self.entries() if entry.router is not None}

    def serves(self, name: str, router: object) -> bool:
        """Whether this is still the router of that extension: it is not from the moment on that it is being stopped."""
        return name in self._entries and self._entries[name].router is router

    def get(self, name: str) -> Entry:
        """One of them. Raises NotFound."""
        if name not in self._entries:
            raise NotFound(f"No extension is called {name[:60]!r}.", fix="`allod extensions` lists them.")
        return self._entries[name]

    def find(self) -> None:
        """Look what is installed now. What is new is known afterwards, but not started."""
        for point in self._points():
            known = self._entries.get(point.name)
            if known is None:
                self._entries[point.name] = entry_of(point)
            elif known.point.value != point.value and known.state == "found":
                _log.warning(
                    "two packages have an extension named %s: %s is left out", point.name, point.value
                )

    # all of them

    async def start(self) -> None:
        """Start every installed extension, those that others need first."""
        async with self._one_at_a_time:
            self.find()
            disabled = await self._rooms.disabled()
            for entry in self._entries.values():
                await self._load(entry, disabled)
            for entry in in_order(list(self._entries.values())):
                if entry.state == "found":
                    await self._start(entry)

    async def open_doors(self) -> None:
        """Ask for the routes of those that run; of later ones as soon as they run."""
        async with self._one_at_a_time:
            self._has_doors = True
            for entry in self.entries():
                if entry.extension is not None:
                    await self._open_door(entry)

    async def stop(self) -> None:
        """Stop all, last started first."""
        async with self._one_at_a_time:
            for name in reversed(self._order.copy()):
                await self._stop(self._entries[name], "stopped", "The server is stopping.")

    async def settings_changed(self, name: str, before: Any) -> None:
        """Tell an extension that its settings are others now. What it does wrong stops nothing."""
        entry = self._entries.get(name)
        if entry is None or entry.extension is None:
            return
        try:
            extension = entry.extension
            await custody.call(name, lambda: extension.settings_changed(before), START_S)
        except Exception:
            _log.exception("%s did not take its changed settings in order", name)

    async def checks(self) -> list[Check]:
        """What the extensions found out about this machine, and how they fare themselves."""
        found: list[Check] = []
        for entry in self.entries():
            if entry.extension is not None:
                try:
                    found += await custody.call(entry.name, entry.extension.checks, START_S)
                except Exception as error:
                    found.append(_check(entry, "warn", f"its own check failed: {words_of(error)}", _UPDATE))
            elif entry.state in ("failed", "refused"):
                found.append(_check(entry, "fail", entry.reason, entry.fix))
        return found

    # one of them

    async def disable(self, name: str) -> None:
        """Stop it, and those that need it, and leave it out from now on. Raises NotFound."""
        async with self._one_at_a_time:
            entry = self.get(name)
            await self._stop_with_dependants(entry, "disabled", "You switched it off.")
            await self._rooms.set_enabled(name, False)
            entry.fix = f"allod extensions enable {name}"
        await self._tell_changed()

    async def enable(self, name: str) -> Entry:
        """Start it, and those that were stopped for lack of it. Also one that was installed just now."""
        async with self._one_at_a_time:
            self.find()
            entry = self.get(name)
            await self._rooms.set_enabled(name, True)
            await self._start_with_dependants(entry)
        await self._tell_changed()
        return entry

    async def restart(self, name: str) -> Entry:
        """Stop it and start it again, with those that need it. Raises Conflict where it is switched off."""
        async with self._one_at_a_time:
            entry = self.get(name)
            if entry.state == "disabled":
                raise Conflict(f"{name!r} is switched off.", fix=f"allod extensions enable {name}")
            await self._stop_with_dependants(entry, "stopped", "It is being restarted.")
            await self._start_with_dependants(entry)
        await self._tell_changed()
        return entry

    async def _tell_changed(self) -> None:
        if self.changed is not None:
            await self.changed()

    async def _stop_with_dependants(self, entry: Entry, state: State, reason: str) -> None:
        for other in reversed(self._order.copy()):
            if entry.name in self._needs_of(other) and other != entry.name:
                await self._stop(
                    self._entries[other], "stopped", f"It needs {entry.name!r}, which was stopped."
                )
        await self._stop(entry, state, reason)

    async def _start_with_dependants(self, entry: Entry) -> None:
        if entry.extension is None:
            await self._load(entry, set())
            if entry.state == "found":
                await self._start(entry)
        waiting = [
            e
            for e in self._entries.values()
            if e.state in ("stopped", "refused") and entry.name in self._needs_of(e.name)
        ]
        for other in in_order(waiting):
            await self._start(other)

    def _needs_of(self, name: str) -> set[str]:
        """All that it needs, at first and at second hand."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for need in self._entries[waiting.pop()].needs:
                if need not in found and need in self._entries:
                    found.add(need)
                    waiting.append(need)
        return found

    # the steps of a life

    async def _load(self, entry: Entry, disabled: set[str]) -> None:
        """Import it and read its manifest."""
        entry.reason = entry.fix = ""
        if entry.name in disabled:
            self._set(entry, "disabled", "You switched it off.", f"allod extensions enable {entry.name}")
            return
        if self._builtin_only and not entry.is_builtin:
            self._set(entry, "refused", "This is the safe mode.", "Start the server without --builtin-only.")
            return
        try:
            with custody.acting(entry.name):
                entry.kind = checked(loaded(entry.point), entry.name)
        except Refused as refused:
            self._set(entry, "refused", str(refused), refused.fix)
            return
        except Exception as error:
            _log.exception("the extension %s cannot be imported", entry.name)
            self._set(
                entry, "failed", f"It cannot be imported: {words_of(error)}", _UPDATE.format(name=entry.name)
            )
            return
        manifest = entry.kind.manifest
        entry.summary, entry.needs, entry.after = manifest.summary, manifest.needs, manifest.after
        entry.egress = manifest.egress
        entry.state = "found"

    async def _start(self, entry: Entry) -> None:
        missing = [need for need in entry.needs if need not in self._order]
        if missing:
            reason = f"It needs {', '.join(map(repr, missing))}, which does not run."
            fix = f"Install it, or see why it does not run: allod extensions show {missing[0]}"
            self._set(entry, "refused", reason, fix)
            return
        steps = [
            ("It did not begin", self._make),
            ("Its tables could not be brought up to date", self._migrate),
            ("It did not start", self._start_itself),
            ("What it contributes is not in order", self._seat),
        ]
        for step, work in steps:
            try:
                with custody.acting(entry.name):
                    await work(entry)
            except BaseException as error:
                if not is_fault(error):
                    raise
                await self._fail(entry, step, error)
                return
        self._put_in_order(entry.name)
        self._set(entry, "active")
        if self._has_doors:
            await self._open_door(entry)

    async def _make(self, entry: Entry) -> None:
        assert entry.kind is not None
        context = await self._rooms.context(entry.kind)
        entry.kind.Settings.model_json_schema()  # a form that cannot be shown fails here, not on everybody's page
        entry.extension = entry.kind(context)

    async def _migrate(self, entry: Entry) -> None:
        assert entry.extension is not None
        await self._rooms.migrate(entry.extension)

    async def _start_itself(self, entry: Entry) -> None:
        assert entry.extension is not None
        await custody.call(entry.name, entry.extension.start, START_S)
        entry.has_started = True

    async def _seat(self, entry: Entry) -> None:
        assert entry.extension is not None
        entry.contributions = gather(entry.extension)
        await self._rooms.seat(entry.name, entry.contributions)

    def _put_in_order(self, name: str) -> None:
        """Add it to those that run: always in the order in which a fresh start would bring them up."""
        running = {*self._order, name}
        self._order = [each.name for each in in_order(list(self._entries.values())) if each.name in running]
        self._rooms.reorder(self._order)

    async def _open_door(self, entry: Entry) -> None:
        from fastapi import APIRouter, FastAPI

        assert entry.extension is not None
        try:
            with custody.acting(entry.name):
                router = entry.extension.router()
            if router is not None and not isinstance(router, APIRouter):
                raise Mistyped(f"router() gives {type(router).__name__}, not an APIRouter")
            if router is not None:
                described = FastAPI()
                described.include_router(router, prefix=f"/api/{entry.name}")
                described.openapi()
            entry.router = router
        except BaseException as error:
            if not is_fault(error):
                raise
            await self._fail(entry, "Its routes are not in order", error)

    async def _fail(self, entry: Entry, step: str, error: BaseException) -> None:
        """Leave it out, with those that need it, and give back what it has taken so far."""
        is_late = isinstance(error, TimeoutError) and step == "It did not start"
        reason = f"{step} within {START_S:g} s." if is_late else f"{step}: {words_of(error)}"
        _log.error("the extension %s was left out", entry.name, exc_info=error)
        fix = error.fix if isinstance(error, AllodError) and error.fix else _UPDATE.format(name=entry.name)
        await self._stop_with_dependants(entry, "failed", reason)
        entry.fix = fix
        _log.warning("%s: %s %s", entry.name, reason, fix)

    async def _stop(self, entry: Entry, state: State, reason: str) -> None:
        extension, entry.extension = entry.extension, None
        contributions, entry.contributions = entry.contributions, Contributions()
        entry.router = None
        if entry.name in self._order:
            self._order.remove(entry.name)
        if extension is not None:
            await self._rooms.unseat(entry.name, contributions)
            if entry.has_started:
                await self._end(entry.name, extension)
            entry.has_started = False
            left = entry.left_behind = tuple(await self._rooms.clear(entry.name))
            if left:
                _log.warning(
                    "the extension %s left behind, and it was ended: %s", entry.name, ", ".join(left)
                )
        self._set(entry, state, reason)

    async def _end(self, name: str, extension: Extension[Any]) -> None:
        try:
            await custody.call(name, extension.stop, START_S)
        except Exception:
            _log.exception("the extension %s did not stop in order", name)

    def _set(self, entry: Entry, state: State, reason: str = "", fix: str = "") -> None:
        entry.state, entry.reason, entry.fix = state, reason, fix
        if state in ("failed", "refused"):
            _log.warning("the extension %s does not run. %s %s", entry.name, reason, fix)
        self._rooms.publish(ExtensionStateChanged(entry.name, state, reason))


def _check(entry: Entry, status: Literal["warn", "fail"], detail: str, fix: str) -> Check:
    return Check(f"extension {entry.name}", status, detail, fix.format(name=entry.name))
