"""Settings: schema, value and where it comes from; change and reset."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body

from allod.kernel.house import House


def build(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/settings", tags=["Kernel"])
    settings = house.settings

    @router.get("")
    async def all_settings() -> dict[str, Any]:
        """All namespaces: the server's own and each extension's."""
        return {"settings": [settings.describe(namespace) for namespace in settings.namespaces()]}

    @router.get("/{namespace}")
    async def one_namespace(namespace: str) -> dict[str, Any]:
        """One namespace: its JSON Schema, its values, and for each whether it is the default, or who set it."""
        return settings.describe(namespace)

    @router.patch("/{namespace}")
    async def change(
        namespace: str, values: Annotated[dict[str, Any], Body(description="New values by field.")]
    ) -> dict[str, Any]:
        """Change some fields. If one does not fit, none is changed."""
        await house.change_settings(namespace, values)
        return settings.describe(namespace)

    @router.delete("/{namespace}/{field}")
    async def reset(namespace: str, field: str) -> dict[str, Any]:
        """Take your change of a field back: the file, the environment or the default holds again."""
        await house.reset_setting(namespace, field)
        return settings.describe(namespace)

    return router
