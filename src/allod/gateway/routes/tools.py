"""GET /api/tools: what a model may ask this server for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from allod.kernel.house import House


def build(house: House) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/api/tools", tags=["Kernel"])

    @router.get("")
    async def list_tools() -> dict[str, Any]:
        """All tools. A request names those that its model may use: `{"type": "allod", "name": …}` among its `tools`."""
        return {
            "tools": [
                {
                    "name": name,
                    "extension": extension,
                    "summary": tool.summary,
                    "effect": tool.effect,
                    "parameters": tool.arguments.model_json_schema(),
                }
                for name, (extension, tool) in sorted(house.toolbox.all().items())
            ]
        }

    return router
