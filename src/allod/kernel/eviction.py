"""Who must leave memory. Pure: looks at its arguments only, so that the UI can ask "what if" with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allod.sdk.engine import DeviceId, LoadPlan, ModelId
from allod.sdk.errors import ModelTooLarge

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `last_used` in seconds on any steady clock."""

    model: ModelId
    bytes_by_device: Mapping[DeviceId, int]
    is_busy: bool
    is_pinned: bool
    last_used: float


def plan_eviction(
    wanted: LoadPlan, resident: Sequence[Resident], free_bytes: Mapping[DeviceId, int]
) -> list[ModelId]:
    """Models to unload, in order, so that `wanted` fits; empty if it fits already.

    Prefers idle over busy, then least recently used, then the fewest unloads. Pinned models are never named.

    Raises ModelTooLarge when even unloading everything unpinned would not be enough.
    """
    candidates = sorted((r for r in resident if not r.is_pinned), key=lambda r: (r.is_busy, r.last_used))
    chosen: list[Resident] = []
    for candidate in candidates:
        if _fits(wanted, chosen, free_bytes):
            break
        chosen.append(candidate)
    if not _fits(wanted, chosen, free_bytes):
        raise _too_large(wanted, chosen, free_bytes)
    for spared in reversed(list(chosen)):  # a later, larger one can make an earlier one needless
        rest = [r for r in chosen if r is not spared]
        if _fits(wanted, rest, free_bytes):
            chosen = rest
    return [r.model for r in chosen]


def _fits(wanted: LoadPlan, leaving: Sequence[Resident], free_bytes: Mapping[DeviceId, int]) -> bool:
    return all(
        _free(device, leaving, free_bytes) >= needed for device, needed in wanted.bytes_by_device.items()
    )


def _free(device: DeviceId, leaving: Sequence[Resident], free_bytes: Mapping[DeviceId, int]) -> int:
    return free_bytes.get(device, 0) + sum(r.bytes_by_device.get(device, 0) for r in leaving)


def _too_large(
    wanted: LoadPlan, leaving: Sequence[Resident], free_bytes: Mapping[DeviceId, int]
) -> ModelTooLarge:
    device, needed = max(
        wanted.bytes_by_device.items(), key=lambda item: item[1] - _free(item[0], leaving, free_bytes)
    )
    can_free = _free(device, leaving, free_bytes)
    return ModelTooLarge(
        f"{wanted.model!r} needs {needed // _MIB} MiB of {device} memory; {max(0, can_free) // _MIB} MiB can be freed.",
        fix="Choose a smaller quantisation, set a smaller context, or unpin or stop something else.",
    )
