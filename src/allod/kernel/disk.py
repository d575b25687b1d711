"""What a disk refuses, in words that say what to do."""

from __future__ import annotations

import errno

from allod.sdk.errors import AllodError, StoreFull, StoreReadOnly

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
REFUSALS = (*_FULL, errno.EROFS)
"""What only a disk says, whatever was being done."""


def full() -> StoreFull:
    """The disk is full."""
    return StoreFull(
        "The disk is full, so this was not kept.", fix="Free some space. What was kept before is safe."
    )


def read_only() -> StoreReadOnly:
    """The disk does not let anything be written."""
    return StoreReadOnly(
        "The data folder's disk does not let the store be written.",
        fix="Make the data folder writable, or move it to another disk and set ALLOD_HOME.",
    )


def of_disk(error: OSError) -> AllodError:
    """What an error of the system means for who wanted to keep something."""
    if error.errno in _FULL:
        return full()
    if error.errno in _READ_ONLY:
        return read_only()
    return StoreReadOnly(f"The disk reported an error: {error.strerror}.", fix="Look at the disk.")
