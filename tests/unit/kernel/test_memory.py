"""What is free for models: the least of what the system, the container and the budget allow."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from allod.kernel.eviction import Resident
from allod.kernel.memory import free_memory
from allod.sdk.engine import CPU, LoadPlan, ModelId

MIB = 1 << 20
_ALL_THAT_IS_SPARED = 512 * MIB


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container's files, without any limit at first."""
    monkeypatch.setattr("allod.kernel.memory._CGROUP", tmp_path)
    return tmp_path


def limit(cgroup: Path, most: int | str, current: int, stat: str = "") -> None:
    (cgroup / "memory.max").write_text(f"{most}\n")
    (cgroup / "memory.current").write_text(f"{current}\n")
    (cgroup / "memory.stat").write_text(stat)


def free(budget_mib: int = 0, resident_bytes: int = 0) -> int:
    plan = LoadPlan(ModelId("m"), {CPU: resident_bytes}, context_tokens=1, pool_tokens=1, slots=1)
    resident = [Resident(plan, False, False, 0)]
    return free_memory(budget_mib)(resident)[CPU]


@pytest.mark.parametrize("has_cgroup", [False, True])
def test_without_a_limit_it_is_what_the_system_can_spare(cgroup: Path, has_cgroup: bool) -> None:
    if has_cgroup:
        limit(cgroup, "max", 123)
    available = psutil.virtual_memory().available
    assert free() == pytest.approx(available - _ALL_THAT_IS_SPARED, abs=500 * MIB)


def test_a_container_s_limit_holds(cgroup: Path) -> None:
    limit(cgroup, 700 * MIB, 100 * MIB)
    assert free() == 600 * MIB - _ALL_THAT_IS_SPARED


def test_file_pages_that_nobody_maps_count_as_free_in_a_container(cgroup: Path) -> None:
    """The pages of a model file stay in the cache when its worker has ended; they would look like use for ever."""
    pages = {"active_file": 50 * MIB, "inactive_file": 80 * MIB, "file_mapped": 30 * MIB, "anon": 1}
    limit(cgroup, 700 * MIB, 300 * MIB, "".join(f"{name} {size}\n" for name, size in pages.items()))
    assert free() == 500 * MIB - _ALL_THAT_IS_SPARED


@pytest.mark.parametrize("most", ["", "a lot"])
def test_a_limit_that_cannot_be_read_is_none(cgroup: Path, most: str) -> None:
    limit(cgroup, most, 0)
    assert free() > 0


def test_a_budget_counts_what_is_resident(cgroup: Path) -> None:
    assert free(budget_mib=100, resident_bytes=30 * MIB) == 70 * MIB
    assert free(budget_mib=100, resident_bytes=130 * MIB) == -30 * MIB


def test_a_budget_beyond_the_machine_gives_no_more_than_the_machine_has(cgroup: Path) -> None:
    limit(cgroup, 600 * MIB, 0)
    assert free(budget_mib=10_000_000) == 88 * MIB
