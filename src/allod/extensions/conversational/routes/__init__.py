"""HTTP under /api/conversational. Thin: what is asked is read here, and done elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from allod.extensions.conversational.routes import (
    attachments,
    messages,
    projects,
    queue,
    runs,
    search,
    threads,
    transfer,
    wholes,
)

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms


def build(rooms: Rooms) -> APIRouter:
    """All routes."""
    router = APIRouter()
    for room in (threads, wholes, messages, attachments, runs, queue, projects, search, transfer):
        router.include_router(room.build(rooms))
    return router
