"""Commands share a server that one of them has started for its own time: the file locks by which they agree on it.

Who uses a server of this data folder holds it (kernel/paths.py); whoever started it ends it once no other does, else
it ends by itself when the last one leaves.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, a server that was started for another command's time stays."""
    from allod.kernel.paths import Paths, data_folder

    with Paths(data_folder()).held():
        yield


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """Whether no command holds the server; if so, those that want to wait until this context has ended."""
    with _locked("holders", wait=False) as is_alone:
        yield is_alone


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Inside, no other command looks for a server or starts one."""
    with _locked("starting", wait=True):
        yield


@contextlib.contextmanager
def _locked(name: str, *, wait: bool) -> Iterator[bool]:
    """Lock a file of the data folder's run folder; whether that could be done. True where there are no such locks."""
    from allod.kernel.paths import Paths, data_folder

    file = Paths(data_folder()).run / name
    if sys.platform == "win32" or not file.parent.is_dir():
        yield True
        return
    import fcntl

    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # a disk that cannot be written: the server says more of it
        yield True
        return
    is_locked = False
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_locked = True
        yield is_locked
    finally:
        os.close(handle)
