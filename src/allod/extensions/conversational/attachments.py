"""Files of a thread: taken in, copied with a thread, named by its messages. Their bytes are where the thread is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from allod.extensions.conversational.media import IMAGES, clean_name, media_type
from allod.extensions.conversational.parts import File, Image, Part
from allod.extensions.conversational.records import Attachment
from allod.extensions.conversational.rows import Archive, Rows
from allod.sdk.errors import BadRequest, Conflict, NotFound, StoreDamaged

_MISSING = "missing"
"""Stands in a part whose bytes did not come along; it names nothing."""

BytesOf = Callable[[Attachment], Awaitable[bytes]]


async def attach(archive: Archive, thread: str, name: str, claimed: str, data: bytes) -> Attachment:
    """Keep a file with a thread, for a message to name it. Raises NotFound where there is no such thread."""
    await archive.read(lambda rows: rows.thread(thread))  # before anything is written
    given = await described(name, claimed, data)

    async def bytes_of(_: Attachment) -> bytes:
        return data

    async with placed(archive, [given], bytes_of) as made:
        await archive.write(lambda rows: take_in(rows, thread, made.values()))
    return replace(made[given.blob], thread=thread)


async def described(name: str, claimed: str, data: bytes, blob: str = "") -> Attachment:
    """What is known of a file that belongs to no thread yet. `claimed` is the media type that its sender says."""
    kind = await asyncio.to_thread(media_type, data, name, claimed)
    return Attachment(blob, "", clean_name(name), kind, len(data), time.time())


@asynccontextmanager
async def placed(
    archive: Archive, given: Iterable[Attachment], bytes_of: BytesOf
) -> AsyncIterator[dict[str, Attachment]]:
    """Copies of files, by the blobs that are given; inside, `take_in` makes them a thread's. Else they are gone again.

    One after another: no two are in memory at once. One whose bytes are no longer there is left out.
    """
    made: dict[str, Attachment] = {}
    try:
        for each in given:
            try:
                data = await bytes_of(each)
            except NotFound:
                continue
            blob, key = await archive.put_bytes(data)
            made[each.blob] = replace(each, blob=blob, key=key)
        yield made
    except Exception:  # not when it is cancelled: what was begun may come to its end
        await archive.drop_bytes([each.blob for each in made.values()])
        raise


def take_in(rows: Rows, thread: str, placed: Iterable[Attachment]) -> None:
    """Make files a thread's. Raises NotFound where there is no such thread."""
    rows.thread(thread)
    for each in placed:
        rows.add_attachment(replace(each, thread=thread))


async def detach(archive: Archive, thread: str, blob: str) -> None:
    """Delete a file that no message names. Raises NotFound, Conflict."""

    def work(rows: Rows) -> None:
        rows.attachment(thread, blob)
        rows.drop_attachments(thread, [blob])
        if any(each.blob == blob for each in rows.attachments(thread)):
            raise Conflict(f"The file {blob!r} is part of a message.", fix="Delete the message.")

    await archive.write(work)


async def opened(archive: Archive, thread: str, blob: str) -> tuple[Attachment, bytes]:
    """A file and its bytes. Raises NotFound, StoreDamaged."""
    found = await archive.read(lambda rows: rows.attachment(thread, blob))
    return found, await archive.bytes_of(found)


async def contents(archive: Archive, thread: str) -> dict[str, bytes]:
    """The bytes of all files of a thread that can be read, by their blobs. Raises NotFound."""
    found = {}
    for each in await archive.read(lambda rows: rows.attachments(thread)):
        with suppress(NotFound, StoreDamaged):  # the store has told the log of it
            found[each.blob] = await archive.bytes_of(each)
    return found


# parts that name files


def as_part(attachment: Attachment) -> Image | File:
    """How a message names it."""
    kind = Image if attachment.media_type in IMAGES else File
    return kind(
        blob=attachment.blob,
        media_type=attachment.media_type,
        name=attachment.name,
        bytes=attachment.size_bytes,
    )


def own_parts(rows: Rows, thread: str, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with what is really known of each file. Raises BadRequest for a file that is not the thread's."""
    return tuple(_own(rows, thread, part) if isinstance(part, Image | File) else part for part in parts)


def _own(rows: Rows, thread: str, part: Image | File) -> Image | File:
    try:
        return as_part(rows.attachment(thread, part.blob))
    except NotFound:
        raise BadRequest(
            f"The thread {thread!r} has no file {part.blob[:40]!r}.",
            fix="Send it first: POST /api/conversational/threads/{thread}/attachments",
            param="blob",
        ) from None


def moved(parts: Sequence[Part], placed: Mapping[str, Attachment]) -> tuple[Part, ...]:
    """The parts, with the names of the copies. A file that has none must never be taken for one that is kept here."""
    return tuple(_moved(part, placed) if isinstance(part, Image | File) else part for part in parts)


def _moved(part: Image | File, placed: Mapping[str, Attachment]) -> Image | File:
    return part.model_copy(update={"blob": placed[part.blob].blob if part.blob in placed else _MISSING})
