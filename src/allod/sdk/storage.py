"""What an extension keeps: its own tables in the one encrypted database, and how they came to be as they are.

Every table, index and trigger of an extension begins with its name and two underscores (`glossary__terms`); the store
refuses any other. SQL is written with SQLAlchemy Core, in one file of the extension: `store.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of an extension's tables. Numbers begin at 1 and leave none out; a step that was released never changes.

    `up` gets Alembic's operations, bound to one transaction: all of it happens, or nothing.
    """

    number: int
    summary: str
    up: Callable[[Operations], None]


class Store(Protocol):
    """An extension's own tables.

    `work` is a plain function. It runs in a thread of the store, so that the server goes on meanwhile, and hands back
    finished values: rows must be read before it returns.
    """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` read, all of it from the same moment. Several run side by side, also beside a write."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction of its own, and return once that is safely on the disk; if it raises, nothing is.

        Writes run one after another. Raises StoreFull or StoreReadOnly where the disk takes no more.
        """
        ...

    async def scrub(self) -> None:
        """Let what was deleted or overwritten be gone from the disk too, not only from the tables.

        For after a deletion that was meant; it takes some milliseconds and more where much was written. A full-text
        index needs its own `secure-delete` and `optimize` first.
        """
        ...
