"""What may reach the world, and what has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from allod.kernel.house import House


class NewGrant(BaseModel):
    """The body of POST /api/egress/grants."""

    model_config = ConfigDict(extra="forbid")

    extension: str = Field(max_length=100, description="Who may.")
    host: str = Field(
        max_length=300, description="Whom it may reach: a name, with a port where it is not the usual one."
    )
    purpose: str = Field(default="*", max_length=100, description='What for; "*" is anything.')
    once: bool = Field(default=False, description="For one request only.")


class Offline(BaseModel):
    """The body of PUT /api/egress/offline."""

    model_config = ConfigDict(extra="forbid")

    offline: bool = Field(description="True: nothing leaves, whatever was granted.")


def build(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/egress", tags=["Kernel"])
    egress = house.egress

    def state() -> dict[str, Any]:
        return {"offline": egress.offline, "grants": [asdict(grant) for grant in egress.grants()]}

    @router.get("")
    async def what_may() -> dict[str, Any]:
        """Whether everything is offline, and what is granted."""
        return state()

    @router.get("/log")
    async def ledger(
        limit: int = Query(default=100, ge=1, le=1000),
        before_id: int | None = None,
        extension: str | None = None,
    ) -> dict[str, Any]:
        """What has left or was refused, newest first: who, what for, to whom, how much; never what it said."""
        return {"entries": [asdict(entry) for entry in await egress.entries(limit, before_id, extension)]}

    @router.post("/grants", status_code=201)
    async def allow(body: NewGrant) -> dict[str, Any]:
        """Let an extension reach a host. `is_declared` is false where its manifest keeps it from ever asking."""
        house.host.get(body.extension)
        grant = await egress.allow(body.extension, body.host, body.purpose, body.once)
        return {**asdict(grant), "is_declared": egress.could_use(grant)}

    @router.delete("/grants", status_code=204)
    async def deny(extension: str, host: str, purpose: str | None = None) -> None:
        """Take grants back; what is under way by them ends."""
        await egress.deny(extension, host, purpose)

    @router.put("/offline")
    async def set_offline(body: Offline) -> dict[str, Any]:
        """Cut everything off, or allow again what is granted."""
        await egress.set_offline(body.offline)
        return state()

    return router
