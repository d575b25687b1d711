"""What the machine is: told by files, and without starting any program."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil

from allod.extensions.system.machine import examine, gpus, processor

PROGRAMS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}
started: list[str] = []
sys.addaudithook(lambda event, _: started.append(event) if event in PROGRAMS else None)


def test_the_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert found.kernel == f"{os.uname().sysname} {os.uname().release}"
    assert found.architecture == os.uname().machine
    assert found.memory_bytes == psutil.virtual_memory().total
    assert 0 < found.available_bytes <= found.memory_bytes
    assert found.threads == psutil.cpu_count()
    assert found.cores is None or 1 <= found.cores <= found.threads
    assert found.python == platform.python_version()
    assert found.system and found.processor and found.allod
    assert found.data_folder == str(tmp_path)
    assert 0 < found.uptime_s < 24 * 3600


def test_no_program_is_started_to_find_out(tmp_path: Path) -> None:
    before = len(started)
    examine(tmp_path)
    assert started[before:] == []
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    assert started[before:] == ["os.posix_spawn"], "the watch itself works"


def test_gpus_are_named_by_their_drivers(tmp_path: Path) -> None:
    nvidia = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    nvidia.parent.mkdir(parents=True)
    nvidia.write_text("Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 141\nGPU UUID: \t GPU-0\n")
    amd = tmp_path / "sys/class/drm/card1/device/product_name"
    amd.parent.mkdir(parents=True)
    amd.write_text("AMD Instinct MI210\n")
    silent = tmp_path / "sys/class/drm/card2/device/product_name"
    silent.parent.mkdir(parents=True)
    silent.write_text("\n")
    assert gpus(tmp_path / "proc", tmp_path / "sys") == ("NVIDIA GeForce RTX 3090", "AMD Instinct MI210")


def test_a_machine_without_such_files_names_no_gpu_and_its_architecture(tmp_path: Path) -> None:
    assert gpus(tmp_path, tmp_path) == ()
    assert processor(tmp_path) == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")  # as on many an ARM
    assert processor(tmp_path) == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU: the second @ 3 GHz\n")
    assert processor(tmp_path) == "Some CPU: the second @ 3 GHz"
