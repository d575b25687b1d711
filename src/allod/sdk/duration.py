"""Durations as people write them."""

from __future__ import annotations

import math
import re

from allod.sdk.errors import BadRequest

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds(value: float | str | None) -> float | None:
    """A keep_alive: a number of seconds, or "5m", "1h30m"; negative means for ever. Raises BadRequest."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = value.strip()
    unsigned = text.removeprefix("-")
    match = _DURATION.fullmatch(unsigned)
    try:
        if unsigned and match is not None:
            hours, minutes, rest = (float(part or 0) for part in match.groups())
            total = hours * 3600 + minutes * 60 + rest
            total = -total if text.startswith("-") else total
        else:
            total = float(text)
    except ValueError:
        total = math.nan
    if not math.isfinite(total):  # float() also takes "nan" and "inf", which no clock can count
        raise BadRequest(
            f"keep_alive: {value[:40]!r} is no duration.",
            fix='Write seconds, or "5m", "1h30m".',
            param="keep_alive",
        )
    return total
