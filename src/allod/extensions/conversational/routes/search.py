"""Search. A POST, so that what is looked for stands in no address."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.store.search import Filters, Hit, search
from allod.extensions.conversational.words import match, snippet

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allod.extensions.conversational.extension import Rooms


class Search(BaseModel):
    """The body of POST /search."""

    model_config = ConfigDict(extra="forbid")

    query: Words = Field(max_length=1000, description='Words; "a phrase"; Chinese as it stands in the text.')
    order: Literal["newest", "best"] = "newest"
    limit: int = Field(default=20, ge=1, le=100)
    offset: int = Field(default=0, ge=0, le=10_000)
    project: str | None = None
    assistant: str | None = None
    model: str | None = None
    role: Literal["user", "assistant"] | None = None
    thread: str | None = None
    after: float | None = Field(default=None, description="Seconds since 1970.")
    before: float | None = Field(default=None, description="Seconds since 1970.")


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/search")
    async def find(body: Search) -> dict[str, Any]:
        """Messages, and threads by their titles, in which words are; each with a snippet whose hits are marked."""
        wanted = match(body.query)
        if wanted is None:
            return {"hits": []}
        filters = Filters(**body.model_dump(include=set(Filters.__slots__)))

        def work(connection: Connection) -> list[dict[str, Any]]:
            hits = search(connection, wanted, filters, body.order, body.limit, body.offset)
            return [_shown(hit, body.query) for hit in hits]

        return {"hits": await rooms.context.store.read(work)}

    return router


def _shown(hit: Hit, query: str) -> dict[str, Any]:
    return {
        "thread": hit.thread,
        "title": hit.title,
        "message": hit.message,
        "role": hit.role,
        "at": hit.at,
        "snippet": [asdict(piece) for piece in snippet(hit.body, query)],
    }
