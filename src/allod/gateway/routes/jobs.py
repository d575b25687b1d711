"""Jobs of all extensions: how far they are, and pausing, resuming and cancelling them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from allod.kernel.house import House
from allod.sdk.jobs import JobId, JobStatus


class NewJob(BaseModel):
    """The body of POST /api/jobs."""

    model_config = ConfigDict(extra="forbid")

    extension: str = Field(max_length=100, description="Whose job.")
    kind: str = Field(max_length=100, description="Which of its kinds.")
    parameters: dict[str, Any] = Field(default={}, description="What that kind asks for.")


def build(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/jobs", tags=["Kernel"])
    jobs = house.jobs

    def described(job: JobStatus) -> dict[str, Any]:
        return asdict(job)

    @router.get("")
    async def list_jobs(
        extension: str | None = None,
        limit: int = Query(default=100, ge=1, le=1000),
        before: str | None = Query(default=None, description="Only jobs asked for earlier than this one."),
    ) -> dict[str, Any]:
        """Jobs of the last 30 days, newest first."""
        found = await jobs.all(extension, limit, None if before is None else JobId(before))
        return {"jobs": [described(job) for job in found]}

    @router.post("", status_code=201)
    async def start_job(body: NewJob) -> dict[str, Any]:
        """Put a job in line."""
        return described(await jobs.get(await jobs.start(body.extension, body.kind, body.parameters)))

    @router.get("/{job}")
    async def one_job(job: str) -> dict[str, Any]:
        """One job."""
        return described(await jobs.get(JobId(job)))

    @router.post("/{job}/pause")
    async def pause(job: str) -> dict[str, Any]:
        """Stop working on it until it is resumed."""
        return described(await jobs.pause(JobId(job)))

    @router.post("/{job}/resume")
    async def resume(job: str) -> dict[str, Any]:
        """Go on with a paused job, or try a failed or cancelled one again, from what it saved last."""
        return described(await jobs.resume(JobId(job)))

    @router.post("/{job}/cancel")
    async def cancel(job: str) -> dict[str, Any]:
        """End it."""
        return described(await jobs.cancel(JobId(job)))

    return router
