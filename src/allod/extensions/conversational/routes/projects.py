"""Projects, and the tags in use."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.events import ProjectChanged
from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.records import Project, new_id
from allod.extensions.conversational.store import lists

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allod.extensions.conversational.extension import Rooms

Name = Annotated[Words, Field(min_length=1, max_length=200)]


class NewProject(BaseModel):
    """The body of POST /projects."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    assistant: str = Field(default="", max_length=100, description="With whom new threads in it begin.")


class ProjectChange(BaseModel):
    """The body of PATCH /projects/{project}: only what is named is changed."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    assistant: str = Field(default="", max_length=100)


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter()
    store, events = rooms.context.store, rooms.context.events

    @router.get("/projects")
    async def list_projects() -> dict[str, Any]:
        """All projects, by name."""
        return {"projects": [asdict(each) for each in await store.read(lists.all_projects)]}

    @router.post("/projects", status_code=201)
    async def create_project(body: NewProject) -> dict[str, Any]:
        """Begin a project."""
        made = Project(new_id("project"), body.name, time.time(), body.assistant)

        def work(connection: Connection) -> None:
            lists.put_project(connection, made)
            events.record(connection, ProjectChanged(made.id, "created"))

        await store.write(work)
        return asdict(made)

    @router.patch("/projects/{project}")
    async def change_project(project: str, body: ProjectChange) -> dict[str, Any]:
        """Rename a project, or give it another assistant."""

        def work(connection: Connection) -> Project:
            changed = replace(lists.project(connection, project), **body.model_dump(exclude_unset=True))
            lists.put_project(connection, changed)
            events.record(connection, ProjectChanged(project, "changed"))
            return changed

        return asdict(await store.write(work))

    @router.delete("/projects/{project}", status_code=204)
    async def delete_project(project: str) -> None:
        """Delete a project. Its threads stay, outside of any."""

        def work(connection: Connection) -> None:
            lists.drop_project(connection, project)
            events.record(connection, ProjectChanged(project, "deleted"))

        await store.write(work)
        rooms.eraser.wanted.set()

    @router.get("/tags")
    async def list_tags() -> dict[str, Any]:
        """All tags in use, with the number of their threads."""
        found = await store.read(lists.all_tags)
        return {"tags": [{"tag": tag, "threads": count} for tag, count in found]}

    return router
