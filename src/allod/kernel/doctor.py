"""What the machine offers the server, for `allod doctor`. Extensions add what they know of their own."""

from __future__ import annotations

import platform
import shutil
import stat
import sys
from collections.abc import Sequence

import psutil

from allod.kernel.api_keys import ApiKeys
from allod.kernel.host import Host
from allod.kernel.paths import Paths
from allod.kernel.processes import HAS_WALLS, ChildProcesses
from allod.sdk.extension import Check

_GIB = 1 << 30
_LAYERS = {
    "namespaces": "its own network and IPC namespace",
    "landlock": "only its own files (Landlock)",
    "seccomp": "only unix sockets that it was given (seccomp)",
}
_ALLOW = "Allow user namespaces, or use a kernel of 6.7 or newer."
_OTHERS_HOLD = f"The other walls hold. {_ALLOW}"
_NONE_HOLDS = f"No wall holds, so no model runs. {_ALLOW} Or set server.allow_unwalled_workers."


class Doctor:
    """Examines the machine and the server."""

    def __init__(
        self, paths: Paths, urls: Sequence[str], keys: ApiKeys, host: Host, processes: ChildProcesses
    ) -> None:
        self._paths = paths
        self._urls = urls
        self._keys = keys
        self._host = host
        self._processes = processes

    async def examine(self) -> Sequence[Check]:
        """All checks, the server's first."""
        checks = [_system(), _memory(), self._data_folder(), self._addresses(), *await self._walls()]
        for extension in self._host.active:
            checks += await extension.checks()
        checks += [
            Check(f"extension {failed.name}", "fail", failed.reason, failed.fix)
            for failed in self._host.failed
        ]
        return checks

    def _addresses(self) -> Check:
        return Check("addresses", "ok", f"{', '.join(self._urls)}; {len(self._keys)} API keys")

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


def _system() -> Check:
    cores = psutil.cpu_count(logical=True)
    return Check(
        "system", "ok", f"{platform.platform()}, Python {platform.python_version()}, {cores} processors"
    )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < 2 * _GIB:
        return Check("memory", "warn", detail, "Close other programs, or keep to small models.")
    return Check("memory", "ok", detail)
