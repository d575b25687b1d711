"""GET /api/backup: everything that is kept, sealed, as one file."""

from __future__ import annotations

import time

from fastapi import APIRouter

from allod.gateway.streams import FileResponse, begun
from allod.kernel.backup import sealed
from allod.kernel.house import House
from allod.kernel.vault import Vault


def build(vault: Vault, house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/backup", tags=["Kernel"])

    @router.get("", status_code=200, response_class=FileResponse)
    async def backup() -> FileResponse:
        """A sealed backup, consistent while the server runs. `allod restore` reads it."""
        pieces = await begun(sealed(vault, house.database, house.paths))
        return FileResponse(time.strftime("allod-%Y%m%d-%H%M%S.backup"), pieces)

    return router
