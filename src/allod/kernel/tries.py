"""How often a wrong passphrase may be tried."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from allod.sdk.errors import TooManyTries, WrongPassphrase

_LONGEST_DELAY_S = 300


class Tries:
    """One try at a time; after each wrong one the next must wait twice as long, at most five minutes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong = 0
        self._not_before = 0.0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Inside is one try; WrongPassphrase from there counts. Raises TooManyTries where it comes too early."""
        with self._lock:
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0:
                raise TooManyTries(
                    f"The next try may come in {wait_s:.0f} s.", fix="Wait so long.", retry_after_s=wait_s
                )
            try:
                yield
            except WrongPassphrase:
                self._wrong += 1
                self._not_before = time.monotonic() + min(2 ** (self._wrong - 1), _LONGEST_DELAY_S)
                raise
            self._wrong = 0
