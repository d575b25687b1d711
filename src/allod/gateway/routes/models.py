"""GET /v1/models: what can answer."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from fastapi import APIRouter

from allod.kernel.models import DEFAULT_NAMES
from allod.sdk.context import Models
from allod.sdk.engine import ModelCard
from allod.sdk.errors import ModelNotFound


def build(models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/models", tags=["OpenAI"])
    started = int(time.time())

    def described(card: ModelCard, name: str = "") -> dict[str, Any]:
        facts = {
            "name": card.name,
            "state": models.state(card.id),
            "context_tokens": card.context_tokens,
            "size_bytes": card.size_bytes,
            "quantization": card.quantization,
            "architecture": card.architecture,
            "parameters": card.parameters,
            "capabilities": list(card.capabilities),
            "is_local": card.is_local,
            "problem": card.problem,
            **({"alias_of": card.id} if name else {}),
        }
        return {
            "id": name or card.id,
            "object": "model",
            "created": started,
            "owned_by": card.engine,
            "allod": facts,
        }

    @router.get("")
    async def list_models() -> dict[str, Any]:
        """All models known, loaded or not; `default` and `jan` stand for the default model."""
        listed = [described(card) for card in await models.cards()]
        with contextlib.suppress(ModelNotFound):  # all there are may be damaged
            listed += [described(await models.find(name), name) for name in DEFAULT_NAMES]
        return {"object": "list", "data": listed}

    @router.get("/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        """One model."""
        card = await models.find(model)
        return described(card, model if model.casefold() in DEFAULT_NAMES else "")

    return router
