"""GET /api/events: what happens, as one stream of server-sent events with ids."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from allod.kernel.house import House

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def build(house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/events", tags=["Kernel"])

    @router.get("", response_class=StreamingResponse)
    async def stream(last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
        """All events from now on; with Last-Event-ID also those since then. `Gap` says that some may be missing."""
        frames = house.event_stream.frames(last_event_id)
        return StreamingResponse(frames, media_type="text/event-stream", headers=_HEADERS)

    return router
