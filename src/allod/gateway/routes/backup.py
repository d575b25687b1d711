"""GET /api/backup: everything that is kept, sealed, as one file."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from allod.kernel.backup import sealed
from allod.kernel.house import House
from allod.kernel.vault import Vault


def build(vault: Vault, house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/backup", tags=["Kernel"])

    @router.get("", response_class=StreamingResponse)
    async def backup() -> StreamingResponse:
        """A sealed backup, consistent while the server runs. `allod restore` reads it."""
        name = time.strftime("allod-%Y%m%d-%H%M%S.backup")
        return StreamingResponse(
            sealed(vault, house.database, house.paths),
            media_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
        )

    return router
