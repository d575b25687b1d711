"""Signs of life and numbers, for operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from allod import __version__
from allod.kernel.metrics import Metrics
from allod.sdk.context import Models
from allod.sdk.errors import NotFound


def build(models: Models | None, metrics: Metrics) -> APIRouter:
    """The routes; without `models` the store is locked."""
    router = APIRouter(tags=["Operation"])

    @router.get("/health")
    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok", "version": __version__}

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """The store is open and there is a model to answer with; 503 if not."""
        if models is None:
            return JSONResponse({"status": "locked", "detail": "The store is locked."}, 503)
        try:
            default = await models.find("default")
        except NotFound as error:
            return JSONResponse({"status": "no model", "detail": error.message}, 503)
        return JSONResponse({"status": "ok", "default": default.id, "state": models.state(default.id)})

    @router.get("/metrics", response_class=Response)
    async def numbers() -> Response:
        """All metrics, in Prometheus' text format."""
        for model, taken in _memory_by_model(models.report() if models is not None else ()).items():
            metrics.memory.labels(model).set(taken)
        return Response(metrics.text(), media_type=metrics.content_type)

    return router


def _memory_by_model(report: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of all workers of each model; what they share counts once."""
    rows: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in report:
        rows[row["model"]].append(row)
    return {
        model: sum(row["memory_bytes"] for row in each)
        - sum(sorted(row["shared_bytes"] for row in each)[:-1])
        for model, each in rows.items()
    }
