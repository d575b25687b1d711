"""Two tables: the assistants, and all versions of each. A version is kept whole, as JSON, and is never changed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    delete,
    insert,
    or_,
    select,
    update,
)

from allod.extensions.assistant.content import Content, key_of
from allod.extensions.assistant.difference import changed_fields
from allod.extensions.assistant.naming import free_name
from allod.sdk.errors import Conflict, NotFound
from allod.sdk.events import AssistantChanged, Events
from allod.sdk.storage import Migration, Store

if TYPE_CHECKING:
    from alembic.operations import Operations

_tables = MetaData()
_assistants = Table(
    "assistant__assistants",
    _tables,
    Column("id", String, primary_key=True),
    Column("name_key", String, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)
_versions = Table(
    "assistant__versions",
    _tables,
    Column("assistant", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("content", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("restored_from", Integer),
    Column("at", Float, nullable=False),
)


def _first(op: Operations) -> None:
    op.create_table(
        "assistant__assistants",
        Column("id", String, primary_key=True),
        Column("name_key", String, nullable=False, unique=True),
        Column("version", Integer, nullable=False),
        Column("is_default", Boolean, nullable=False),
        Column("created_at", Float, nullable=False),
    )
    op.create_table(
        "assistant__versions",
        Column("assistant", String, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("content", String, nullable=False),
        Column("changed", String, nullable=False),
        Column("restored_from", Integer),
        Column("at", Float, nullable=False),
    )


Act: TypeAlias = Literal["created", "changed", "deleted", "default"]
MIGRATIONS: Sequence[Migration] = (Migration(1, "assistants and their versions", _first),)


@dataclass(frozen=True, slots=True)
class Kept:
    """An assistant as it was in one version. Times in seconds since 1970; `at`: when this version was made."""

    id: str
    version: int
    latest: int
    content: Content
    is_default: bool
    created_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Step:
    """One version without its content: which fields it changed, and from which version it was restored."""

    version: int
    at: float
    changed: list[str]
    restored_from: int | None


class KeptAssistants:
    """The user's assistants, as they are kept. One is always the default one, once `ensure` was called.

    Everywhere `assistant` is an id or a name, or None for the default one.
    """

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    async def ensure(self, content: Content) -> None:
        """Keep this one as the default one, where there is none."""
        if await self._store.read(_default_id) is None:
            await self._store.write(lambda connection: self._ensure(connection, content))

    async def all(self) -> list[Kept]:
        """All of them, by name."""

        def read(connection: Connection) -> list[Kept]:
            present = _versions.c.version == _assistants.c.version
            return [_kept(row) for row in connection.execute(_select().where(present))]

        return sorted(await self._store.read(read), key=lambda kept: key_of(kept.content.name))

    async def get(self, assistant: str | None = None, version: int | None = None) -> Kept:
        """One of them, now or in a version. Raises NotFound."""
        return await self._store.read(lambda connection: _get(connection, assistant, version))

    async def steps(self, assistant: str) -> list[Step]:
        """All its versions, newest first. Raises NotFound."""

        def read(connection: Connection) -> list[Step]:
            kept = _get(connection, assistant)
            found = connection.execute(
                select(_versions).where(_versions.c.assistant == kept.id).order_by(_versions.c.version.desc())
            )
            return [Step(row.version, row.at, json.loads(row.changed), row.restored_from) for row in found]

        return await self._store.read(read)

    async def add(self, content: Content, *, numbered: bool = False) -> Kept:
        """Keep a new one; a name that is taken gets a number, or raises Conflict."""
        return await self._store.write(lambda connection: self._add(connection, content, numbered))

    async def change(
        self,
        assistant: str,
        make: Callable[[Content], Content],
        *,
        if_version: int | None = None,
        restored_from: int | None = None,
    ) -> Kept:
        """Make its next version from the present one; none where nothing changes.

        Raises NotFound, what `make` raises, and Conflict where the present version is not `if_version` or the new name
        is taken.
        """

        def write(connection: Connection) -> Kept:
            before = _get(connection, assistant)
            _check_version(before, if_version)
            content = make(before.content)
            changed = changed_fields(before.content, content)
            if not changed:
                return before
            _check_free(connection, content, but=before.id)
            number = before.version + 1
            connection.execute(
                update(_assistants)
                .where(_assistants.c.id == before.id)
                .values(version=number, name_key=key_of(content.name))
            )
            _add_version(connection, before.id, number, content, changed, restored_from)
            self._record(connection, before.id, number, "changed")
            return _get(connection, before.id)

        return await self._store.write(write)

    async def restore(self, assistant: str, version: int, *, if_version: int | None = None) -> Kept:
        """Make its next version from an old one. Raises NotFound and Conflict."""
        old = await self.get(assistant, version)
        return await self.change(old.id, lambda _: old.content, if_version=if_version, restored_from=version)

    async def choose(self, assistant: str) -> Kept:
        """Make it the default one. Raises NotFound."""

        def write(connection: Connection) -> Kept:
            wanted = _get(connection, assistant)
            if not wanted.is_default:
                self._choose(connection, wanted.id, wanted.version)
            return _get(connection, wanted.id)

        return await self._store.write(write)

    async def delete(self, assistant: str) -> None:
        """Delete it and all its versions, also from the disk. Raises NotFound, and Conflict for the default one."""

        def write(connection: Connection) -> None:
            kept = _get(connection, assistant)
            if kept.is_default:
                raise Conflict(
                    f"{kept.content.name!r} is the default assistant, and there is always one.",
                    fix="Make another one the default first: allod assistants default NAME",
                )
            connection.execute(delete(_versions).where(_versions.c.assistant == kept.id))
            connection.execute(delete(_assistants).where(_assistants.c.id == kept.id))
            self._record(connection, kept.id, kept.version, "deleted")

        await self._store.write(write)
        await self._store.scrub()

    def _ensure(self, connection: Connection, content: Content) -> None:
        if _default_id(connection) is None:
            kept = self._add(connection, content, numbered=True)
            self._choose(connection, kept.id, kept.version)

    def _add(self, connection: Connection, content: Content, numbered: bool) -> Kept:
        if numbered:
            content = content.renamed(free_name(content.name, _taken(connection)))
        _check_free(connection, content)
        id = f"assistant_{secrets.token_hex(6)}"
        connection.execute(
            insert(_assistants).values(
                id=id, name_key=key_of(content.name), version=1, is_default=False, created_at=time.time()
            )
        )
        _add_version(connection, id, 1, content, [], None)
        self._record(connection, id, 1, "created")
        return _get(connection, id)

    def _choose(self, connection: Connection, id: str, version: int) -> None:
        connection.execute(update(_assistants).values(is_default=_assistants.c.id == id))
        self._record(connection, id, version, "default")

    def _record(self, connection: Connection, id: str, version: int, change: Act) -> None:
        self._events.record(connection, AssistantChanged(id, version, change))


def _select() -> Select[tuple[object, ...]]:
    """Assistants with all their versions."""
    return select(
        _assistants.c.id,
        _assistants.c.version.label("latest"),
        _assistants.c.is_default,
        _assistants.c.created_at,
        _versions.c.version,
        _versions.c.content,
        _versions.c.at,
    ).join_from(_assistants, _versions, _versions.c.assistant == _assistants.c.id)


def _kept(row: Row[tuple[object, ...]]) -> Kept:
    return Kept(
        id=row.id,
        version=row.version,
        latest=row.latest,
        content=Content.model_validate_json(row.content),
        is_default=row.is_default,
        created_at=row.created_at,
        at=row.at,
    )


def _get(connection: Connection, assistant: str | None, version: int | None = None) -> Kept:
    if assistant is None:
        is_it: ColumnElement[bool] = _assistants.c.is_default.is_(True)
    else:  # no name looks like an id
        is_it = or_(_assistants.c.id == assistant, _assistants.c.name_key == key_of(assistant))
    wanted = _assistants.c.version if version is None else version
    row = connection.execute(_select().where(is_it, _versions.c.version == wanted)).first()
    if row is not None:
        return _kept(row)
    if version is not None:
        latest = _get(connection, assistant).latest
        raise NotFound(
            f"This assistant has no version {version}; its newest is {latest}.",
            fix="allod assistants versions NAME lists them.",
        )
    raise NotFound(
        f"There is no assistant {(assistant or '')[:80]!r}.", fix="`allod assistants` lists all there are."
    )


def _default_id(connection: Connection) -> str | None:
    return connection.scalar(select(_assistants.c.id).where(_assistants.c.is_default))


def _taken(connection: Connection) -> set[str]:
    return set(connection.scalars(select(_assistants.c.name_key)))


def _check_free(connection: Connection, content: Content, but: str = "") -> None:
    same = select(_assistants.c.id).where(
        _assistants.c.name_key == key_of(content.name), _assistants.c.id != but
    )
    if connection.scalar(same) is not None:
        raise Conflict(
            f"Another assistant is called {content.name!r}.", fix="Choose another name.", param="name"
        )


def _check_version(kept: Kept, if_version: int | None) -> None:
    if if_version not in (None, kept.version):
        raise Conflict(
            f"The assistant is at version {kept.version} now; the change was made from version {if_version}.",
            fix="Nothing was changed. Read it again, and make the change anew.",
            param="if_version",
        )


def _add_version(
    connection: Connection,
    id: str,
    number: int,
    content: Content,
    changed: list[str],
    restored_from: int | None,
) -> None:
    connection.execute(
        insert(_versions).values(
            assistant=id,
            version=number,
            content=content.model_dump_json(),
            changed=json.dumps(changed),
            restored_from=restored_from,
            at=time.time(),
        )
    )
