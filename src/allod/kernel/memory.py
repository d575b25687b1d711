"""How much memory is free for models: what the system calls available, within a container's limit and the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from allod.kernel.eviction import Resident, taken
from allod.sdk.engine import CPU, DeviceId

_MIB = 1 << 20
_SPARED_MIB = 512  # left to everything else on the machine
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(budget_mib: int) -> Callable[[Sequence[Resident]], Mapping[DeviceId, int]]:
    """A function of what is resident that says what is free now, in bytes. `budget_mib` 0: no budget."""

    def free(resident: Sequence[Resident]) -> Mapping[DeviceId, int]:
        available = min(psutil.virtual_memory().available, _container_free()) - _SPARED_MIB * _MIB
        if budget_mib:
            available = min(available, budget_mib * _MIB - taken([r.plan for r in resident], CPU))
        return {CPU: available}

    return free


def _container_free() -> int:
    """Bytes left under this container's memory limit (cgroup v2); a very large number where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            return int(limit) - int((_CGROUP / "memory.current").read_text()) + _idle_cache()
    except (OSError, ValueError):
        pass  # no cgroup v2 here, so no limit that can be read
    return 1 << 62


def _idle_cache() -> int:
    """Bytes of file pages that no process maps: counted as in use, but given up as soon as they are needed."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    pages = {name: int(size) for name, size in (line.split() for line in lines)}
    cached = pages.get("active_file", 0) + pages.get("inactive_file", 0)
    return max(0, cached - pages.get("file_mapped", 0))
