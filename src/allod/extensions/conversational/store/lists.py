"""Lists: threads in pages, projects, tags, and what a crash or the calendar leaves to be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, and_, delete, func, insert, or_, select, update

from allod.extensions.conversational.parts import PARTS, text_of
from allod.extensions.conversational.records import OPENING, Project, Thread
from allod.extensions.conversational.store.kept import as_thread
from allod.extensions.conversational.store.tables import messages, projects, runs, tags, threads
from allod.sdk.errors import NotFound

Place = Literal["open", "archive", "trash"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which threads: in which place, and only those of a project, with a tag, favourites, of an assistant."""

    place: Place = "open"
    project: str | None = None
    tag: str | None = None
    favourite: bool | None = None
    assistant: str | None = None


def page(
    connection: Connection, wanted: Wanted, limit: int, before: tuple[float, int] | None = None
) -> tuple[list[Thread], tuple[float, int] | None]:
    """Threads, the last changed first, and from where the next page goes on; None where there is none."""
    query = _wanted(select(threads), wanted)
    if before is not None:
        changed_at, number = before
        same = and_(threads.c.changed_at == changed_at, threads.c.number < number)
        query = query.where(or_(threads.c.changed_at < changed_at, same))
    query = query.order_by(threads.c.changed_at.desc(), threads.c.number.desc()).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    tagged = _tags_of(connection, [row["id"] for row in rows])
    found = [as_thread(row, tagged[row["id"]]) for row in rows[:limit]]
    last = rows[limit - 1] if len(rows) > limit else None
    return found, None if last is None else (last["changed_at"], last["number"])


def ids(connection: Connection, wanted: Wanted) -> list[str]:
    """The ids of all such threads, the last changed first."""
    query = _wanted(select(threads.c.id), wanted).order_by(threads.c.changed_at.desc())
    return list(connection.execute(query).scalars())


def _wanted(query: Select[Any], wanted: Wanted) -> Select[Any]:
    if wanted.place == "trash":
        query = query.where(threads.c.deleted_at.is_not(None))
    else:
        query = query.where(threads.c.deleted_at.is_(None))
        is_archived = threads.c.archived_at.is_not(None)
        query = query.where(is_archived if wanted.place == "archive" else ~is_archived)
    if wanted.project is not None:
        query = query.where(threads.c.project == wanted.project)
    if wanted.tag is not None:
        tagged = select(tags.c.thread).where(tags.c.tag == wanted.tag)
        query = query.where(threads.c.id.in_(tagged))
    if wanted.favourite is not None:
        query = query.where(threads.c.is_favourite.is_(wanted.favourite))
    if wanted.assistant is not None:
        query = query.where(threads.c.assistant == wanted.assistant)
    return query


def _tags_of(connection: Connection, ids: Sequence[str]) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in connection.execute(select(tags).where(tags.c.thread.in_(ids)).order_by(tags.c.tag)):
        found[row.thread].append(row.tag)
    return found


def all_tags(connection: Connection) -> list[tuple[str, int]]:
    """All tags in use, with the number of their threads."""
    query = select(tags.c.tag, func.count()).group_by(tags.c.tag).order_by(tags.c.tag)
    return [(row[0], row[1]) for row in connection.execute(query)]


# projects


def all_projects(connection: Connection) -> list[Project]:
    """All projects by name, with the number of their threads that are not in the trash."""
    counts = (
        select(threads.c.project, func.count().label("threads"))
        .where(threads.c.deleted_at.is_(None))
        .group_by(threads.c.project)
        .subquery()
    )
    query = (
        select(projects, func.coalesce(counts.c.threads, 0).label("threads"))
        .outerjoin(counts, counts.c.project == projects.c.id)
        .order_by(func.lower(projects.c.name), projects.c.id)
    )
    return [Project(**row) for row in connection.execute(query).mappings()]


def project(connection: Connection, id: str) -> Project:
    """A project. Raises NotFound."""
    row = connection.execute(select(projects).where(projects.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(
            f"There is no project {id[:60]!r}.", fix="GET /api/conversational/projects lists them."
        )
    count = select(func.count()).where(threads.c.project == id, threads.c.deleted_at.is_(None))
    return Project(**row, threads=connection.execute(count).scalar_one())


def put_project(connection: Connection, made: Project) -> None:
    """Keep a project, new or changed."""
    values = {"name": made.name, "created_at": made.created_at, "assistant": made.assistant}
    if connection.execute(update(projects).where(projects.c.id == made.id).values(values)).rowcount == 0:
        connection.execute(insert(projects).values(id=made.id, **values))


def drop_project(connection: Connection, id: str) -> None:
    """Drop a project; its threads stay, outside of any. Raises NotFound."""
    project(connection, id)
    connection.execute(update(threads).where(threads.c.project == id).values(project=None))
    connection.execute(delete(projects).where(projects.c.id == id))


# what is left to be done


def unfinished(connection: Connection) -> list[str]:
    """Messages that were being written when the server ended."""
    query = select(messages.c.id).where(messages.c.status == "writing")
    return list(connection.execute(query).scalars())


def unfinished_runs(connection: Connection) -> list[str]:
    """Runs that had not ended when the server did."""
    return list(connection.execute(select(runs.c.id).where(runs.c.ended_at.is_(None))).scalars())


def expired(connection: Connection, deleted_before: float) -> list[str]:
    """Threads that have been in the trash since before a time."""
    query = select(threads.c.id).where(threads.c.deleted_at < deleted_before)
    return list(connection.execute(query).scalars())


def untitled(connection: Connection, changed_after: float) -> list[str]:
    """Threads without a title that have an answer, the last changed first."""
    query = select(threads.c.id).where(
        threads.c.title_source == "none",
        threads.c.deleted_at.is_(None),
        threads.c.messages > 1,
        threads.c.changed_at > changed_after,
    )
    return list(connection.execute(query.order_by(threads.c.changed_at.desc())).scalars())


def summarized(connection: Connection) -> list[str]:
    """Threads that want a summary, and whose prompt leaves something out, the last changed first."""
    query = select(threads.c.id).where(
        threads.c.context.contains('"summarize"'),
        threads.c.kept_from.is_not(None),
        threads.c.deleted_at.is_(None),
    )
    return list(connection.execute(query.order_by(threads.c.changed_at.desc())).scalars())


def openings(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """With what these threads begin, by their ids: what stands for a title while there is none."""
    first = select(messages.c.thread, messages.c.parts).where(
        messages.c.thread.in_(ids), messages.c.parent.is_(None)
    )
    rows = connection.execute(first.order_by(messages.c.number.desc()))
    return {row.thread: text_of(PARTS.validate_json(row.parts))[:OPENING] for row in rows}
