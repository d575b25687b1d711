"""Names of copies and of what is brought in: a name that is taken gets a number."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import count

from allod.extensions.assistant.content import LONGEST_NAME, key_of


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or with the first free number behind it: "Ann", "Ann (2)". `taken` are keys of names."""
    if key_of(name) not in taken:
        return name
    stem = re.sub(r" \(\d+\)$", "", name)
    for number in count(2):
        suffix = f" ({number})"
        numbered = stem[: LONGEST_NAME - len(suffix)].rstrip() + suffix
        if key_of(numbered) not in taken:
            return numbered
    raise AssertionError("count() has no end")
