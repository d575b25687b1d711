"""What this machine is, what is installed and under which licences, what takes how much disk. It keeps nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allod.sdk.extension import Extension, Manifest, NoSettings

if TYPE_CHECKING:
    from fastapi import APIRouter


class System(Extension[NoSettings]):
    """Looks, each time that it is asked."""

    manifest = Manifest(
        name="system", summary="What this machine is, what is installed, what takes how much disk."
    )

    def router(self) -> APIRouter:
        """Routes under /api/system."""
        from allod.extensions.system.routes import build

        return build(self.context.data_folder, self.context.store)
