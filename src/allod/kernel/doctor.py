"""What the machine offers the server, for `allod doctor`. Extensions add what they know of their own."""

from __future__ import annotations

import asyncio
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Sequence

import psutil

from allod.kernel.house import House
from allod.kernel.keysources import PROTECTS
from allod.kernel.paths import Paths
from allod.kernel.processes import HAS_WALLS, ChildProcesses
from allod.kernel.settings import Settings
from allod.kernel.vault import Vault
from allod.sdk.errors import AllodError
from allod.sdk.extension import Check

_GIB, _MIB = 1 << 30, 1 << 20
_LAYERS = {
    "namespaces": "its own network and IPC namespace",
    "landlock": "only its own files (Landlock)",
    "seccomp": "only unix sockets that it was given (seccomp)",
}
_ALLOW = "Allow user namespaces, or use a kernel of 6.7 or newer."
_OTHERS_HOLD = f"The other walls hold. {_ALLOW}"
_NONE_HOLDS = f"No wall holds, so no model runs. {_ALLOW} Or set server.allow_unwalled_workers."


class Doctor:
    """Examines the machine and the server. `house` gives what stands on the open store, None while it is locked."""

    def __init__(
        self,
        *,
        paths: Paths,
        urls: Sequence[str],
        settings: Settings,
        vault: Vault,
        processes: ChildProcesses,
        house: Callable[[], House | None],
    ) -> None:
        self._paths = paths
        self._urls = urls
        self._settings = settings
        self._vault = vault
        self._processes = processes
        self._house = house

    async def examine(self) -> Sequence[Check]:
        """All checks, the server's first."""
        checks = [_system(), _memory(), self._data_folder(), self._store(), self._addresses()]
        checks += [*self._settings_file(), *await self._walls()]
        house = self._house()
        if house is None:
            return checks
        return [*checks, await _soundness(house), *await house.host.checks()]

    def _addresses(self) -> Check:
        return Check("addresses", "ok", ", ".join(self._urls))

    def _store(self) -> Check:
        kinds = sorted({slot.kind for slot in self._vault.slots()})
        detail = f"Encrypted. {' '.join(PROTECTS[kind] for kind in kinds)}"
        if not self._vault.opens_elsewhere:
            fix = "Make a recovery code: allod vault add recovery"
            return Check("store", "warn", f"{detail} No other machine could open it, or a backup of it.", fix)
        return Check("store", "ok", detail)

    def _settings_file(self) -> Sequence[Check]:
        unknown = self._settings.unknown_tables()
        if self._house() is None or not unknown:
            return ()
        detail = f"config.toml has settings of {', '.join(map(repr, unknown))}, which nobody reads"
        return [Check("settings", "warn", detail, "Correct the name, or install the extension.")]

    def _data_folder(self) -> Check:
        folder = self._paths.data
        free = shutil.disk_usage(folder).free
        detail = f"{folder}, {free / _GIB:.1f} GiB free"
        if sys.platform != "win32" and stat.S_IMODE(folder.stat().st_mode) & 0o077:
            return Check("data folder", "warn", f"{detail}, open to other users", f"Run: chmod 700 {folder}")
        if free < _GIB:
            return Check("data folder", "warn", detail, "Free some space: models and chats need it.")
        return Check("data folder", "ok", detail)

    async def _walls(self) -> Sequence[Check]:
        if not HAS_WALLS:
            return [
                Check(
                    "walls",
                    "warn",
                    f"{platform.system()} offers no walls around workers; this system is not tested",
                    "Models run with your own rights. Use only model files that you trust.",
                )
            ]
        report = await self._processes.probe_walls()
        why = report.get("why") or {}
        has_any = any(report.get(layer) for layer in _LAYERS)
        return [
            Check(f"wall: {layer}", "ok", f"each worker has {meaning}")
            if report.get(layer)
            else Check(
                f"wall: {layer}",
                "warn" if has_any else "fail",
                f"this kernel refuses it: {why.get(layer, 'no reason given')}",
                _OTHERS_HOLD if has_any else _NONE_HOLDS,
            )
            for layer, meaning in _LAYERS.items()
        ]


async def _soundness(house: House) -> Check:
    """Whether all of the store can be read; it is read for that."""
    try:
        problems = await asyncio.to_thread(house.database.problems)
    except AllodError as error:
        problems = [error.detail]
    if problems:
        detail = f"damaged in {len(problems)} places: {problems[0]}"
        return Check("store is sound", "fail", detail, "Restore a backup: allod restore FILE")
    return Check("store is sound", "ok", f"{house.paths.store.stat().st_size / _MIB:.1f} MiB read")


def _system() -> Check:
    cores = psutil.cpu_count(logical=True)
    return Check(
        "system",
        "ok",
        f"{platform.system()} {platform.release()} {platform.machine()}, "
        f"Python {platform.python_version()}, {cores} processors",
    )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < 2 * _GIB:
        return Check("memory", "warn", detail, "Close other programs, or keep to small models.")
    return Check("memory", "ok", detail)
