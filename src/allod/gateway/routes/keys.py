"""API keys: list them, make and remove one."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from allod.kernel.api_keys import RIGHTS, ApiKey
from allod.kernel.house import House
from allod.sdk.errors import BadRequest

_DAY_S = 86400


class NewKey(BaseModel):
    """The body of POST /api/keys."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="What the key is for.")
    rights: list[str] = Field(
        default=["chat"],
        min_length=1,
        description='What it may: "chat" (ask models), "read" (see what is kept), "admin" (everything), or the name of '
        "an extension (all of its routes).",
    )
    expires_in_days: float | None = Field(
        default=None, gt=0, description="Without it, the key holds for ever."
    )


def build(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/keys", tags=["Kernel"])

    def described(key: ApiKey) -> dict[str, Any]:
        return {
            "id": key.id,
            "name": key.name,
            "rights": sorted(key.rights),
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "last_used_at": key.last_used_at,
            "has_expired": key.has_expired,
        }

    @router.get("")
    async def list_keys() -> dict[str, Any]:
        """All API keys, without their secrets."""
        return {"keys": [described(key) for key in house.keys.all()]}

    @router.post("", status_code=201)
    async def create_key(body: NewKey) -> dict[str, Any]:
        """A new API key. Its secret is shown this once."""
        known = [*RIGHTS, *(entry.name for entry in house.host.entries())]
        for right in body.rights:
            if right not in known:
                raise BadRequest(
                    f"There is no right {right[:60]!r}.", fix=f"One of {', '.join(known)}.", param="rights"
                )
        expires_at = None if body.expires_in_days is None else time.time() + body.expires_in_days * _DAY_S
        key, secret = await house.keys.create(body.name, body.rights, expires_at)
        return {**described(key), "key": secret}

    @router.delete("/{key_id}", status_code=204)
    async def remove_key(key_id: str) -> None:
        """Forget an API key, at once."""
        await house.keys.remove(key_id)

    return router
