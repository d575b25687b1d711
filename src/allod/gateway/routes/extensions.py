"""The extensions: how each fares, and switching them on and off while the server runs."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from allod.kernel.house import House
from allod.kernel.installed import Entry


def build(house: House) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/extensions", tags=["Kernel"])
    host = house.host

    def removed_stages(entry: Entry) -> list[str]:
        """Those that failed too often in a row, and are out until it is started again."""
        seated = [each.stage for each in house.stages.all if each.extension == entry.name]
        return [stage.name for stage in entry.contributions.stages if stage not in seated]

    def described(entry: Entry) -> dict[str, Any]:
        contributed = entry.contributions
        return {
            "name": entry.name,
            "summary": entry.summary,
            "state": entry.state,
            "reason": entry.reason,
            "fix": entry.fix,
            "package": entry.distribution,
            "version": entry.version,
            "is_builtin": entry.is_builtin,
            "needs": list(entry.needs),
            "after": list(entry.after),
            "egress": list(entry.egress),
            "left_behind": list(entry.left_behind),
            "stages_removed": removed_stages(entry),
            "contributes": {
                "engines": [engine.name for engine in contributed.engines],
                "stages": [stage.name for stage in contributed.stages],
                "tools": [tool.name for tool in contributed.tools],
                "jobs": [job.name for job in contributed.jobs],
                "events": [subscription.kind.__name__ for subscription in contributed.subscriptions],
                "services": [kind.__name__ for kind in contributed.services],
                "routes": entry.router is not None,
            },
        }

    @router.get("")
    async def list_extensions() -> dict[str, Any]:
        """All that are installed: those that run first, and of the others why they do not and what to do."""
        await asyncio.to_thread(host.find)
        return {"extensions": [described(entry) for entry in host.entries()]}

    @router.get("/{name}")
    async def one_extension(name: str) -> dict[str, Any]:
        """One of them."""
        await asyncio.to_thread(host.find)
        return described(host.get(name))

    @router.post("/{name}/enable")
    async def enable(name: str) -> dict[str, Any]:
        """Start it, now and from now on; also one that was installed just now."""
        return described(await host.enable(name))

    @router.post("/{name}/disable")
    async def disable(name: str) -> dict[str, Any]:
        """Stop it and those that need it, now and from now on."""
        await host.disable(name)
        return described(host.get(name))

    @router.post("/{name}/restart")
    async def restart(name: str) -> dict[str, Any]:
        """Stop it and start it again, with those that need it."""
        return described(await host.restart(name))

    return router
