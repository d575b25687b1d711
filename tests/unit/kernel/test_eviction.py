"""Who must leave memory: the laws of the one pure function that decides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from allod.kernel.eviction import Resident, plan_eviction, taken
from allod.sdk.chat import Purpose
from allod.sdk.engine import CPU, DeviceId, LoadPlan, ModelId
from allod.sdk.errors import ModelTooLarge

GPU = DeviceId("gpu0")
_BYTES = st.integers(0, 50)
_DEVICES = st.sampled_from([CPU, GPU])
_PURPOSES: tuple[Purpose, ...] = ("chat", "private")


def wants(**bytes_by_device: int) -> LoadPlan:
    sizes = {DeviceId(device): size for device, size in bytes_by_device.items()}
    return planned("wanted", sizes)


def planned(
    name: str,
    sizes: Mapping[DeviceId, int],
    shared: Mapping[DeviceId, int] | None = None,
    purpose: Purpose = "chat",
) -> LoadPlan:
    return LoadPlan(
        ModelId(name), sizes, 1, pool_tokens=1, slots=1, purpose=purpose, shared_bytes=shared or {}
    )


def resident(
    name: str, size: int, last_used: float, *, shared: int = 0, busy: bool = False, pinned: bool = False
) -> Resident:
    return Resident(planned(name, {CPU: size}, {CPU: shared}), busy, pinned, last_used)


def names(leaving: Sequence[Resident]) -> list[str]:
    return [each.plan.model for each in leaving]


@st.composite
def plans(draw: st.DrawFn, name: str, purpose: Purpose = "chat") -> LoadPlan:
    own = draw(st.dictionaries(_DEVICES, _BYTES))
    shared = {device: draw(st.integers(0, size)) for device, size in own.items()}
    return planned(name, own, shared, purpose)


@st.composite
def cases(draw: st.DrawFn) -> tuple[LoadPlan, list[Resident], dict[DeviceId, int]]:
    """Some models, each with a worker for one purpose or for both; the wanted one may have the other one there."""
    keys = [(f"m{number}", purpose) for number in range(4) for purpose in _PURPOSES]
    chosen = draw(st.lists(st.sampled_from(keys), unique=True, max_size=7))
    there = [
        Resident(draw(plans(*key)), draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 3)))
        for key in chosen
    ]
    free = {CPU: draw(st.integers(-20, 50)), GPU: draw(st.integers(0, 50))}
    wanted = draw(plans(*draw(st.sampled_from([key for key in keys if key not in chosen]))))
    return wanted, there, free


def fits(
    wanted: LoadPlan, leaving: Sequence[Resident], there: Sequence[Resident], free: Mapping[DeviceId, int]
) -> bool:
    """By the definition: what stays and what comes fit into what is taken now and what is free."""
    after = [r.plan for r in there if r not in leaving] + [wanted]
    before = [r.plan for r in there]
    return all(
        together(after, device) <= together(before, device) + free.get(device, 0)
        for device in wanted.bytes_by_device
    )


def together(plans: Sequence[LoadPlan], device: DeviceId) -> int:
    """Bytes of all: of the workers of a model, each one's own part, and once what the two have in common."""
    total = 0
    for model in {plan.model for plan in plans}:
        own = [plan.bytes_by_device.get(device, 0) for plan in plans if plan.model == model]
        shared = [plan.shared_bytes.get(device, 0) for plan in plans if plan.model == model]
        total += sum(own) - (min(shared) if len(own) == 2 else 0)
    return total


@given(st.data())
def test_what_two_workers_of_a_model_share_counts_once(data: st.DataObject) -> None:
    both = [data.draw(plans("a", purpose)) for purpose in _PURPOSES]
    other = data.draw(plans("b"))
    for chosen in ([], both[:1], both, [*both, other], [both[0], other]):
        for device in (CPU, GPU):
            assert taken(chosen, device) == together(chosen, device)


def test_a_second_worker_that_shares_the_weights_fits_where_the_whole_would_not() -> None:
    there = [resident("a", 100, 1, shared=80)]
    second = planned("a", {CPU: 100}, {CPU: 80}, "private")
    assert plan_eviction(second, there, {CPU: 20}) == []
    assert names(plan_eviction(second, there, {CPU: 19})) == ["a"]  # then the weights stay and its cache goes
    with pytest.raises(ModelTooLarge):
        plan_eviction(planned("b", {CPU: 101}), there, {CPU: 0})


@given(cases())
def test_what_leaves_is_enough_and_none_of_it_needless(
    case: tuple[LoadPlan, list[Resident], dict[DeviceId, int]],
) -> None:
    wanted, there, free = case
    unpinned = [r for r in there if not r.is_pinned]
    if not fits(wanted, unpinned, there, free):
        with pytest.raises(ModelTooLarge):
            plan_eviction(wanted, there, free)
        return
    leaving = plan_eviction(wanted, there, free)

    assert not any(r.is_pinned for r in leaving)
    assert fits(wanted, leaving, there, free)
    for spared in leaving:
        assert not fits(wanted, [r for r in leaving if r is not spared], there, free)
    assert leaving == sorted(leaving, key=lambda r: (r.is_busy, r.last_used))


@given(cases())
def test_no_busy_model_leaves_where_the_idle_ones_are_enough(
    case: tuple[LoadPlan, list[Resident], dict[DeviceId, int]],
) -> None:
    wanted, there, free = case
    idle = [r for r in there if not r.is_pinned and not r.is_busy]
    assume(fits(wanted, idle, there, free))
    assert all(r in idle for r in plan_eviction(wanted, there, free))


def test_the_least_recently_used_leaves_first() -> None:
    there = [resident("new", 10, 3), resident("old", 10, 1), resident("middle", 10, 2)]
    assert names(plan_eviction(wants(cpu=20), there, {CPU: 0})) == ["old", "middle"]


def test_a_small_old_one_is_spared_where_a_larger_one_has_to_leave_anyway() -> None:
    there = [resident("small", 5, 1), resident("large", 50, 2)]
    assert names(plan_eviction(wants(cpu=50), there, {CPU: 0})) == ["large"]


def test_only_the_device_that_lacks_memory_is_looked_at() -> None:
    on_gpu = Resident(planned("on gpu", {GPU: 40}), is_busy=False, is_pinned=False, last_used=2)
    there = [resident("on cpu", 40, 1), on_gpu]
    assert names(plan_eviction(wants(gpu0=30, cpu=10), there, {CPU: 10, GPU: 0})) == ["on gpu"]


def test_too_large_says_how_much_is_needed_and_how_much_can_be_freed() -> None:
    mib = 1 << 20
    there = [resident("pinned", 500 * mib, 1, pinned=True), resident("other", 100 * mib, 1)]
    with pytest.raises(ModelTooLarge, match=r"'wanted' needs 900 MiB of cpu memory; 300 MiB can be freed"):
        plan_eviction(wants(cpu=900 * mib), there, {CPU: 200 * mib})
