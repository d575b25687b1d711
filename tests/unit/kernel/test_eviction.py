"""Who must leave memory: the laws of the one pure function that decides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from allod.kernel.eviction import Resident, plan_eviction
from allod.sdk.engine import CPU, DeviceId, LoadPlan, ModelId
from allod.sdk.errors import ModelTooLarge

GPU = DeviceId("gpu0")
_BYTES = st.integers(0, 50)
_BY_DEVICE = st.dictionaries(st.sampled_from([CPU, GPU]), _BYTES)


def wants(**bytes_by_device: int) -> LoadPlan:
    sizes = {DeviceId(device): size for device, size in bytes_by_device.items()}
    return LoadPlan(ModelId("wanted"), sizes, context_tokens=1, pool_tokens=1, slots=1)


def resident(name: str, size: int, last_used: float, *, busy: bool = False, pinned: bool = False) -> Resident:
    return Resident(ModelId(name), {CPU: size}, busy, pinned, last_used)


@st.composite
def cases(draw: st.DrawFn) -> tuple[LoadPlan, list[Resident], dict[DeviceId, int]]:
    sizes = draw(st.lists(_BY_DEVICE, max_size=7))
    there = [
        Resident(ModelId(f"m{n}"), size, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 3)))
        for n, size in enumerate(sizes)
    ]
    free = {CPU: draw(st.integers(-20, 50)), GPU: draw(st.integers(0, 50))}
    wanted = LoadPlan(ModelId("wanted"), draw(_BY_DEVICE), context_tokens=1, pool_tokens=1, slots=1)
    return wanted, there, free


def fits(wanted: LoadPlan, leaving: Sequence[Resident], free: Mapping[DeviceId, int]) -> bool:
    return all(
        free.get(device, 0) + sum(r.bytes_by_device.get(device, 0) for r in leaving) >= size
        for device, size in wanted.bytes_by_device.items()
    )


@given(cases())
def test_what_leaves_is_enough_and_none_of_it_needless(
    case: tuple[LoadPlan, list[Resident], dict[DeviceId, int]],
) -> None:
    wanted, there, free = case
    unpinned = [r for r in there if not r.is_pinned]
    if not fits(wanted, unpinned, free):
        with pytest.raises(ModelTooLarge):
            plan_eviction(wanted, there, free)
        return
    by_name = {r.model: r for r in there}
    leaving = [by_name[model] for model in plan_eviction(wanted, there, free)]

    assert not any(r.is_pinned for r in leaving)
    assert fits(wanted, leaving, free)
    for spared in leaving:
        assert not fits(wanted, [r for r in leaving if r is not spared], free)
    assert leaving == sorted(leaving, key=lambda r: (r.is_busy, r.last_used))


@given(cases())
def test_no_busy_model_leaves_where_the_idle_ones_are_enough(
    case: tuple[LoadPlan, list[Resident], dict[DeviceId, int]],
) -> None:
    wanted, there, free = case
    idle = [r for r in there if not r.is_pinned and not r.is_busy]
    assume(fits(wanted, idle, free))
    assert set(plan_eviction(wanted, there, free)) <= {r.model for r in idle}


def test_the_least_recently_used_leaves_first() -> None:
    there = [resident("new", 10, 3), resident("old", 10, 1), resident("middle", 10, 2)]
    assert plan_eviction(wants(cpu=20), there, {CPU: 0}) == ["old", "middle"]


def test_a_small_old_one_is_spared_where_a_larger_one_has_to_leave_anyway() -> None:
    there = [resident("small", 5, 1), resident("large", 50, 2)]
    assert plan_eviction(wants(cpu=50), there, {CPU: 0}) == ["large"]


def test_only_the_device_that_lacks_memory_is_looked_at() -> None:
    on_gpu = Resident(ModelId("on gpu"), {GPU: 40}, is_busy=False, is_pinned=False, last_used=2)
    there = [resident("on cpu", 40, 1), on_gpu]
    assert plan_eviction(wants(gpu0=30, cpu=10), there, {CPU: 10, GPU: 0}) == ["on gpu"]


def test_too_large_says_how_much_is_needed_and_how_much_can_be_freed() -> None:
    mib = 1 << 20
    there = [resident("pinned", 500 * mib, 1, pinned=True), resident("other", 100 * mib, 1)]
    with pytest.raises(ModelTooLarge, match=r"'wanted' needs 900 MiB of cpu memory; 300 MiB can be freed"):
        plan_eviction(wants(cpu=900 * mib), there, {CPU: 200 * mib})
