"""Models on this machine, by llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allod.extensions.llamacpp.catalog import Catalog, embedded_model
from allod.extensions.llamacpp.engine import LlamaCppEngine
from allod.extensions.llamacpp.machine import examine
from allod.extensions.llamacpp.settings import LlamaCppSettings
from allod.sdk.engine import Engine
from allod.sdk.extension import Check, Extension, Manifest

if TYPE_CHECKING:
    from fastapi import APIRouter


class LlamaCpp(Extension[LlamaCppSettings]):
    """Finds GGUF files, plans what they take, and runs each in a walled process of its own."""

    manifest = Manifest(name="llamacpp", summary="Runs language models on this machine, by llama.cpp.")

    async def start(self) -> None:
        """Look where models lie; nothing is loaded yet."""
        unwritable = self.context.data_folder / "run" / "nothing"
        unwritable.mkdir(mode=0o500, exist_ok=True)
        catalog = self._catalog()
        self._engine = LlamaCppEngine(self.context, catalog, unwritable)
        await asyncio.to_thread(catalog.scan)

    async def stop(self) -> None:
        """End what counts tokens; the models themselves are unloaded before."""
        await self._engine.close()

    def _catalog(self) -> Catalog:
        settings = self.context.settings
        data = self.context.data_folder
        embedded = embedded_model()
        return Catalog(
            folders=[data / "models", *settings.folders],
            references=data / "models.json",
            extra=[*settings.files, *([embedded] if embedded else [])],
        )

    async def settings_changed(self, before: LlamaCppSettings) -> None:
        """Look in the places that are now set. What is loaded stays as it is until it is loaded again."""
        self._engine.catalog = self._catalog()
        await asyncio.to_thread(self._engine.catalog.scan)
        await self._engine.counters.renew()  # there may be another template, or another program

    def engines(self) -> Sequence[Engine]:
        """The one engine."""
        return (self._engine,)

    def router(self) -> APIRouter:
        """Routes under /api/llamacpp."""
        from allod.extensions.llamacpp.routes import build

        return build(self._engine, self.context.models)

    async def checks(self) -> Sequence[Check]:
        """What this machine has for running models."""
        return await examine(self.context, self._engine)
