"""Who must leave memory. Pure: looks at its arguments only, so that the UI can ask "what if" with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from allod.sdk.engine import DeviceId, LoadPlan
from allod.sdk.errors import ModelTooLarge

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, by the plan of its load. `last_used` in seconds on any steady clock."""

    plan: LoadPlan
    is_busy: bool
    is_pinned: bool
    last_used: float


def taken(plans: Iterable[LoadPlan], device: DeviceId) -> int:
    """Bytes that these loads take together: what workers of one model share counts once."""
    alone = 0
    shares: defaultdict[str, list[int]] = defaultdict(list)
    for plan in plans:
        alone += plan.bytes_by_device.get(device, 0)
        shares[plan.model].append(plan.shared_bytes.get(device, 0))
    return alone - sum(sum(each) - max(each) for each in shares.values())


def plan_eviction(
    wanted: LoadPlan, resident: Sequence[Resident], free_bytes: Mapping[DeviceId, int]
) -> list[Resident]:
    """What to unload, in order, so that `wanted` fits; empty if it fits already.

    Prefers idle over busy, then least recently used, then the fewest unloads. Pinned models are never named.

    Raises ModelTooLarge when even unloading everything unpinned would not be enough.
    """
    candidates = sorted((r for r in resident if not r.is_pinned), key=lambda r: (r.is_busy, r.last_used))

    def lacking(leaving: Sequence[Resident], device: DeviceId) -> int:
        """Bytes by which `wanted` does not fit once `leaving` have left."""
        staying = [r.plan for r in resident if r not in leaving]
        room = free_bytes.get(device, 0) + taken([r.plan for r in resident], device)
        return taken([*staying, wanted], device) - room

    def fits(leaving: Sequence[Resident]) -> bool:
        return all(lacking(leaving, device) <= 0 for device in wanted.bytes_by_device)

    chosen: list[Resident] = []
    for candidate in candidates:
        if fits(chosen):
            break
        chosen.append(candidate)
    if not fits(chosen):
        raise _too_large(wanted, lambda device: lacking(chosen, device))
    for spared in reversed(list(chosen)):  # a later, larger one can make an earlier one needless
        rest = [r for r in chosen if r is not spared]
        if fits(rest):
            chosen = rest
    return chosen


def _too_large(wanted: LoadPlan, lacking: Callable[[DeviceId], int]) -> ModelTooLarge:
    device, needed = max(wanted.bytes_by_device.items(), key=lambda item: lacking(item[0]))
    can_free = needed - lacking(device)
    return ModelTooLarge(
        f"{wanted.model!r} needs {needed // _MIB} MiB of {device} memory; {max(0, can_free) // _MIB} MiB can be freed.",
        fix="Choose a smaller quantisation, set a smaller context, or unpin or stop something else.",
    )
