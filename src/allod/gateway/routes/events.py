"""GET /api/events: what happens, as one stream of server-sent events with ids."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Request

from allod.gateway.streams import EventsResponse
from allod.kernel.house import House
from allod.sdk.chat import Caller


def build(house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/events", tags=["Kernel"])

    @router.get("", status_code=200, response_class=EventsResponse)
    async def stream(
        request: Request, last_event_id: Annotated[str | None, Header()] = None
    ) -> EventsResponse:
        """All events from now on; with Last-Event-ID also those since then. `Gap` says that some may be missing."""
        caller = request.scope["allod.caller"]
        return EventsResponse(_while_let_in(house, caller, house.event_stream.frames(last_event_id)))

    return router


async def _while_let_in(
    house: House, caller: Caller, frames: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The frames, until the key or session that asked for them is removed, has ended or expired."""
    async with aclosing(frames):
        async for frame in frames:
            if not (house.keys.holds(caller.key_id) or house.sessions.holds(caller.key_id)):
                return
            yield frame
