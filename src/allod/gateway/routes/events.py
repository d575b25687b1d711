"""GET /api/events: what happens, as one stream of server-sent events with ids."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from allod.gateway.streams import EventsResponse
from allod.kernel.house import House


def build(house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/events", tags=["Kernel"])

    @router.get("", status_code=200, response_class=EventsResponse)
    async def stream(last_event_id: Annotated[str | None, Header()] = None) -> EventsResponse:
        """All events from now on; with Last-Event-ID also those since then. `Gap` says that some may be missing."""
        return EventsResponse(house.event_stream.frames(last_event_id))

    return router
