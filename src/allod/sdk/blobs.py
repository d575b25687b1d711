"""Files of an extension that are too large for its tables: each is sealed under a key that it keeps in the store.

Whoever drops the key there has shredded the file, wherever copies of it lie; see also `Store.scrub`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

KEY_BYTES = 32


class Blobs(Protocol):
    """An extension's own sealed files. They are written once, and are in memory as a whole while they are at hand.

    What was put and is named in no row, because the server was killed in between, stays until somebody deletes it: at
    start an extension compares `all` with its rows.
    """

    async def put(self, data: bytes, key: bytes) -> str:
        """Seal `data` under `key` (32 random bytes); once this returns, it is safely on the disk. Gives its id, random.

        Raises StoreFull or StoreReadOnly where the disk takes no more; then nothing is kept.
        """
        ...

    async def get(self, id: str, key: bytes) -> bytes:
        """What was put. Raises NotFound, and StoreDamaged where it was changed or `key` is another."""
        ...

    async def delete(self, ids: Iterable[str]) -> None:
        """Delete files; those that are not there are passed over. Raises StoreReadOnly."""
        ...

    async def all(self) -> Sequence[str]:
        """The ids of all that there is."""
        ...
