"""HTTP for models on this machine: list, add, load, unload, watch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.llamacpp.engine import LlamaCppEngine
from allod.sdk.chat import Purpose
from allod.sdk.context import Models
from allod.sdk.duration import seconds
from allod.sdk.engine import ModelCard, ModelId
from allod.sdk.errors import ModelNotFound


class NewModel(BaseModel):
    """The body of POST /models."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(description="A GGUF file on this machine. It is used where it lies.")


class LoadOptions(BaseModel):
    """The body of POST /models/{id}/load."""

    model_config = ConfigDict(extra="forbid")

    keep_alive: float | str | None = Field(
        default=None,
        description='Seconds (or "5m", "1h") after its last use that it is unloaded; negative: never.',
    )
    pin: bool | None = Field(default=None, description="Never unload it to make room for another.")


def build(engine: LlamaCppEngine, models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter()

    def described(card: ModelCard) -> dict[str, Any]:
        return {
            "id": card.id,
            "name": card.name,
            "size_bytes": card.size_bytes,
            "quantization": card.quantization,
            "architecture": card.architecture,
            "context_tokens": card.context_tokens,
            "capabilities": list(card.capabilities),
            "state": models.state(card.id),
            "problem": card.problem,
        }

    async def own(name: str) -> ModelCard:
        card = await models.find(name)
        if card.engine != engine.name:
            raise ModelNotFound(f"{card.id!r} is no model of llama.cpp.", fix="`allod models` lists them.")
        return card

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        """All GGUF models on this machine, and which is the default."""
        cards = [card for card in await models.cards() if card.engine == engine.name]
        try:
            default: str | None = (await models.find("default")).id
        except ModelNotFound:
            default = None
        return {"default": default, "models": [described(card) for card in cards]}

    @router.post("/models", status_code=201)
    async def add_model(body: NewModel) -> dict[str, Any]:
        """Use a GGUF file where it lies."""
        file = await asyncio.to_thread(engine.catalog.add, body.path)
        await models.cards()
        return described(await models.find(file.id))

    @router.delete("/models/{model:path}", status_code=204)
    async def remove_model(model: str) -> None:
        """Forget a model that was added by its path. The file stays."""
        card = await own(model)
        await asyncio.to_thread(engine.catalog.remove, card.id)
        await models.unload(card.id)
        await models.unload(card.id, "private")
        await models.cards()

    @router.post("/models/{model:path}/load")
    async def load(model: str, options: LoadOptions | None = None) -> dict[str, Any]:
        """Load a model and wait until it is ready."""
        options = options or LoadOptions()
        card = await own(model)
        plan = await models.load(card.id, seconds(options.keep_alive), options.pin)
        return {"model": card.id, "plan": plan.as_dict()}

    @router.post("/models/{model:path}/unload", status_code=204)
    async def unload(model: str) -> None:
        """Unload a model once its answers have ended."""
        card = await own(model)
        await models.unload(card.id)

    @router.get("/workers")
    async def list_workers() -> dict[str, Any]:
        """What is in memory or was: state, plan, memory, who runs and waits."""
        rows = []
        for row in models.report():
            worker = engine.worker(ModelId(str(row["model"])), cast(Purpose, row["purpose"]))
            own_facts = worker.report() if worker else {"pid": None, "progress": 0.0, "walls": {}}
            rows.append({**row, **own_facts})
        return {"workers": rows}

    return router
