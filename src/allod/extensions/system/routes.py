"""HTTP for the machine, the versions, the licences and the disk."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from allod.extensions.system.disk import measure
from allod.extensions.system.libraries import libraries
from allod.extensions.system.machine import examine
from allod.extensions.system.packages import Package, Packages
from allod.sdk.errors import NotFound
from allod.sdk.storage import Store


def build(data_folder: Path, store: Store) -> APIRouter:
    """The routes."""
    router = APIRouter()
    packages = Packages()

    def described(package: Package) -> dict[str, Any]:
        return {
            "name": package.name,
            "version": package.version,
            "licence": package.licence,
            "said_by": package.said_by,
            "homepage": package.homepage,
            "texts": list(package.texts),
        }

    @router.get("")
    async def describe_machine() -> dict[str, Any]:
        """What this machine is, and what runs here."""
        return asdict(await asyncio.to_thread(examine, data_folder))

    @router.get("/versions")
    async def list_versions() -> dict[str, Any]:
        """The versions of all packages that Allod runs on, and of the C libraries inside them that tell theirs."""
        found = await packages.all()
        return {
            "packages": [{"name": package.name, "version": package.version} for package in found],
            "libraries": [asdict(library) for library in await libraries(store)],
        }

    @router.get("/licences")
    async def list_licences() -> dict[str, Any]:
        """The licences of all packages that Allod runs on, and where each of them says so."""
        return {"packages": [described(package) for package in await packages.all()]}

    @router.get("/licences/{name}")
    async def show_licence(name: str) -> dict[str, Any]:
        """The licence of one package, with all texts that come with it."""
        package = await packages.find(name)
        if package is None:
            raise NotFound(
                f"Allod does not run on a package {name[:100]!r}.", fix="GET /api/system/licences lists all."
            )
        texts = await asyncio.to_thread(_read, package)
        return {**described(package), "texts": texts}

    @router.get("/disk")
    async def measure_disk() -> dict[str, Any]:
        """Bytes in each room of the data folder, and what is free beside it."""
        return asdict(await asyncio.to_thread(measure, data_folder))

    return router


def _read(package: Package) -> list[dict[str, str]]:
    return [
        {"file": name, "text": file.read_text("utf-8", "replace")} for name, file in package.texts.items()
    ]
