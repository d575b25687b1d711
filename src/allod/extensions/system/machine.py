"""What this machine is. Read from the system's own files; no program is started to find anything out."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

_PROC = Path("/proc")
_SYS = Path("/sys")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, and the server on it. `cores` is None where the system does not tell; `uptime_s` is the server's."""

    system: str
    kernel: str
    architecture: str
    processor: str
    cores: int | None
    threads: int
    memory_bytes: int
    available_bytes: int
    gpus: tuple[str, ...]
    python: str
    allod: str
    data_folder: str
    uptime_s: float


def examine(data_folder: Path) -> Machine:
    """Look now. Blocks for about a millisecond."""
    memory = psutil.virtual_memory()
    return Machine(
        system=_system(),
        # not platform.platform(), which starts `uname` to learn what it then leaves out
        kernel=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        processor=processor(),
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count() or 1,
        memory_bytes=memory.total,
        available_bytes=memory.available,
        gpus=gpus(),
        python=platform.python_version(),
        allod=version("allod"),
        data_folder=str(data_folder),
        uptime_s=round(max(0.0, time.time() - psutil.Process().create_time()), 3),
    )


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # Windows, or a Linux that does not say which it is
        return platform.system()


def processor(proc: Path = _PROC) -> str:
    """The processor's name, its architecture where no file tells more."""
    try:
        lines = (proc / "cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # only Linux has it
        return platform.machine()
    return _value(lines, "model name") or platform.machine()


def gpus(proc: Path = _PROC, sys_folder: Path = _SYS) -> tuple[str, ...]:
    """The names of the GPUs whose driver tells them in a file; others are not named.

    NVIDIA's: /proc/driver/nvidia/gpus/*/information (README of the driver, "Using the /proc File System Interface").
    AMD's: `product_name` of the device (kernel documentation of amdgpu, "GPU driver information").
    """
    names = []
    for file in sorted(proc.glob("driver/nvidia/gpus/*/information")):
        names.append(_value(_lines(file), "Model"))
    for file in sorted(sys_folder.glob("class/drm/card*/device/product_name")):
        names += _lines(file)[:1]
    return tuple(name for name in names if name)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:  # a driver may refuse: then it does not tell
        return []


def _value(lines: list[str], name: str) -> str:
    """What stands behind `name:` in the first line that has it."""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
