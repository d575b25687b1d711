"""HTTP for the history of `allod chat`: read it, add to it, delete it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.terminal.settings import TerminalSettings
from allod.extensions.terminal.store import History
from allod.sdk.context import Context
from allod.sdk.errors import BadRequest

_LARGEST_BYTES = 100_000


class NewEntry(BaseModel):
    """The body of POST /history."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="What was typed, 100 kB at most.")


def build(context: Context[TerminalSettings], history: History) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/history")
    async def list_history(
        limit: Annotated[int | None, Query(ge=1, le=100_000, description="Only so many, the newest.")] = None,
    ) -> dict[str, Any]:
        """What was typed, newest last."""
        count = limit or context.settings.longest_history
        return {"history": [asdict(entry) for entry in await history.newest(count)]}

    @router.post(
        "/history", status_code=201, responses={204: {"description": "Nothing is kept: keep_history is off."}}
    )
    async def add_entry(body: NewEntry) -> Any:
        """Keep what was typed. What equals the newest entry is not kept twice."""
        if not context.settings.keep_history:
            return Response(status_code=204)
        _check(body.text)
        return {"id": await history.add(body.text, context.settings.longest_history)}

    @router.delete("/history", status_code=204)
    async def delete_history() -> None:
        """Delete all that was typed."""
        await history.clear()

    return router


def _check(text: str) -> None:
    if not text.strip():
        raise BadRequest("There is nothing in the text.", fix="Send what was typed.", param="text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(
            "The text holds half a character (a lone surrogate).", fix="Send valid Unicode.", param="text"
        ) from None  # the error quotes the text
    if size > _LARGEST_BYTES:
        raise BadRequest(
            f"The text has {size} bytes; up to {_LARGEST_BYTES} are kept.",
            fix="Leave it out: it is too long to be called back.",
            param="text",
        )
