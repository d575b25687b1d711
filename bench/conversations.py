"""Long threads, and search over many messages: in this process, on an encrypted store, no server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from sqlalchemy import Connection

from allod.extensions.conversational.desk import page_of
from allod.extensions.conversational.parts import Text
from allod.extensions.conversational.records import Message, Thread
from allod.extensions.conversational.shown import message_as_json
from allod.extensions.conversational.store.kept import StoreRows
from allod.extensions.conversational.store.search import Filters, search
from allod.extensions.conversational.store.tables import MIGRATIONS
from allod.extensions.conversational.tree import grow
from allod.extensions.conversational.words import match, snippet
from allod.kernel import schema
from allod.kernel.authorizer import KERNEL
from allod.kernel.events import EventBus
from allod.kernel.migrations import Migrator
from allod.kernel.storage import Database
from allod.testing.house import KEY
from bench.figures import Figure

_OWNER = "conversational"
_LATIN = [f"word{number}" for number in range(5000)]
_CHINESE = [chr(0x4E00 + number) for number in range(2000)]
_EVERYWHERE = "everywhere"
_BOTH = "到处"


def conversations(messages: int, folder: Path) -> Iterator[Figure]:
    """Figures of one thread of a tenth of `messages`, and of search over all of them."""
    database = _opened(folder)
    events = EventBus(database).of(_OWNER)
    try:
        yield from _thread(database, events, messages // 10)
        _fill(database, events, messages)
        yield from _searches(database, events, messages)
    finally:
        database.dispose()


def _opened(folder: Path) -> Database:
    database = Database(folder / "allod.db", KEY)
    migrator = Migrator(database, folder / "backups")
    migrator.bring_up(KERNEL, schema.MIGRATIONS)
    migrator.bring_up(_OWNER, MIGRATIONS)
    return database


def _text(rng: random.Random) -> str:
    latin = " ".join(rng.choices(_LATIN, k=60))
    chinese = "".join(rng.choices(_CHINESE, k=40))
    return f"{latin} {chinese} {_EVERYWHERE} {_BOTH}"


def _thread(database: Database, events: Any, length: int) -> Iterator[Figure]:
    rng = random.Random(7)
    thread = Thread("thread_long", 1, 1)
    took: list[float] = []
    with database.transaction(_OWNER) as connection:
        StoreRows(connection, events).add_thread(thread)
    for number in range(length):
        role: Any = "assistant" if number % 2 else "user"
        began = time.perf_counter()
        with database.transaction(_OWNER) as connection:
            thread, _ = grow(
                StoreRows(connection, events), thread, thread.active, role, [Text(text=_text(rng))]
            )
        took.append(time.perf_counter() - began)
    first, last = median(took[5:105]), median(took[-100:])
    yield Figure(
        f"append, the {length:,}th message / the 10th",
        last / first,
        "",
        goal=1.5,
        note=f"{last * 1000:.2f} ms",
    )

    def opening(connection: Connection) -> bytes:
        rows = StoreRows(connection, events)
        found = rows.thread(thread.id)
        page = page_of(rows, found, None, 50)
        shown = [message_as_json(each, page.siblings[each.id]) for each in page.messages]
        return orjson.dumps({"messages": shown, "outline": rows.outline(thread.id)})

    yield Figure(f"open a thread of {length:,} messages", _median_ms(database, opening, 15), "ms", goal=50)
    middle = _at(database, events, thread, length // 2)

    def paging(connection: Connection) -> None:
        rows = StoreRows(connection, events)
        page_of(rows, rows.thread(thread.id), middle.id, 50)

    yield Figure("a page of 50 from its middle", _median_ms(database, paging, 25), "ms", goal=5)


def _at(database: Database, events: Any, thread: Thread, depth: int) -> Message:
    with database.transaction(_OWNER) as connection:
        rows = StoreRows(connection, events)
        return rows.path(str(thread.active))[depth]


def _fill(database: Database, events: Any, messages: int) -> None:
    """Threads of 50 messages, until there are so many messages."""
    rng = random.Random(8)
    texts = [_text(rng) for _ in range(3000)]
    number = messages // 10
    while number < messages:
        with database.transaction(_OWNER) as connection:
            rows = StoreRows(connection, events)
            for _ in range(20):
                thread = Thread(f"thread_{number}", number, number, title=" ".join(rng.choices(_LATIN, k=4)))
                rows.add_thread(replace(thread, messages=50))
                parent = None
                for depth in range(1, 51):
                    role: Any = "user" if depth % 2 else "assistant"
                    message = Message(
                        f"msg_{number}",
                        thread.id,
                        parent,
                        depth,
                        role,
                        (Text(text=texts[number % 3000]),),
                        number,
                    )
                    rows.add_message(message)
                    parent = message.id
                    number += 1


def _searches(database: Database, events: Any, messages: int) -> Iterator[Figure]:
    rng = random.Random(9)
    rare = rng.sample(_LATIN, 25)
    pairs = ["".join(rng.sample(_CHINESE, 2)) for _ in range(15)] + [_BOTH] * 10
    queries = [
        *rare,
        *pairs,
        *[_EVERYWHERE] * 25,
        *[f"{word} {_EVERYWHERE}" for word in rng.sample(_LATIN, 25)],
    ]
    newest = [_search_ms(database, query, "newest") for query in queries]
    yield Figure(
        f"search {messages:,} messages, newest first, median of {len(queries)}", median(newest), "ms", goal=5
    )
    yield Figure("the slowest of them", max(newest), "ms")
    best = [_search_ms(database, query, "best") for query in (_EVERYWHERE, _BOTH) * 5]
    yield Figure("best match first, a word in every message", median(best), "ms", goal=100)


def _search_ms(database: Database, query: str, order: Any) -> float:
    def work(connection: Connection) -> Sequence[Any]:
        hits = search(connection, str(match(query)), Filters(), order, 20)
        return [snippet(hit.body, query) for hit in hits]

    return _median_ms(database, work, 3)


def _median_ms(database: Database, work: Callable[[Connection], Any], repeats: int) -> float:
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        with database.transaction(_OWNER) as connection:
            work(connection)
        took.append((time.perf_counter() - began) * 1000)
    return median(took)
