"""GET /api/doctor: what this machine has, and what to do about each problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from allod.sdk.extension import Check


def build(examine: Callable[[], Awaitable[Sequence[Check]]]) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/doctor", tags=["Kernel"])

    @router.get("")
    async def checks() -> dict[str, Any]:
        """What this machine has, and what to do about each problem."""
        return {"checks": [asdict(check) for check in await examine()]}

    return router
