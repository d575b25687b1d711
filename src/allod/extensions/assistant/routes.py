"""HTTP for assistants. Each is named by its id or by its name, whatever the case of its letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Response

from allod.extensions.assistant.bodies import (
    AssistantChange,
    AssistantCopy,
    AssistantList,
    AssistantRestore,
    AssistantView,
    DefaultAssistant,
    NewAssistant,
)
from allod.extensions.assistant.difference import differences
from allod.extensions.assistant.presets import PRESETS
from allod.extensions.assistant.store import KeptAssistants
from allod.extensions.assistant.transfer import exported, file_name, imported

_Named = Annotated[str, Path(max_length=200, description="Its id or its name.")]
_Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
_ONE = "/assistants/{assistant}"


def build(assistants: KeptAssistants) -> APIRouter:
    """The routes."""
    router = APIRouter()
    _of_all(router, assistants)
    _of_one(router, assistants)
    _of_versions(router, assistants)
    return router


def _of_all(router: APIRouter, assistants: KeptAssistants) -> None:
    @router.get("/assistants")
    async def list_assistants() -> AssistantList:
        """All assistants, by name, and which is the default one."""
        found = [AssistantView.of(kept) for kept in await assistants.all()]
        return AssistantList(default=next(each.id for each in found if each.is_default), assistants=found)

    @router.post("/assistants", status_code=201)
    async def create_assistant(body: NewAssistant) -> AssistantView:
        """Make an assistant. Its name must be free."""
        return AssistantView.of(await assistants.add(body.of(None)))

    @router.put("/default")
    async def choose_default(body: DefaultAssistant) -> AssistantView:
        """Make an assistant the default one: it answers where a chat names none."""
        return AssistantView.of(await assistants.choose(body.assistant))

    @router.post("/import", status_code=201)
    async def import_assistant(file: Annotated[dict[str, Any], Body()]) -> AssistantView:
        """Make an assistant from an exported file. Nothing is overwritten: a name that is taken gets a number."""
        return AssistantView.of(await assistants.add(imported(file), numbered=True))

    @router.get("/presets")
    async def list_presets() -> dict[str, Any]:
        """Named choices of parameters, and what their numbers do."""
        return {"presets": [asdict(each) | {"parameters": each.parameters.model_dump()} for each in PRESETS]}


def _of_one(router: APIRouter, assistants: KeptAssistants) -> None:
    @router.get(_ONE)
    async def one_assistant(assistant: _Named) -> AssistantView:
        """One assistant, as it is now."""
        return AssistantView.of(await assistants.get(assistant))

    @router.patch(_ONE)
    async def change_assistant(assistant: _Named, body: AssistantChange) -> AssistantView:
        """Change some fields, which makes a new version, unless nothing changes."""
        return AssistantView.of(await assistants.change(assistant, body.of, if_version=body.if_version))

    @router.delete(_ONE, status_code=204)
    async def delete_assistant(assistant: _Named) -> None:
        """Delete an assistant with all its versions, also from the disk. The default one stays."""
        await assistants.delete(assistant)

    @router.post(f"{_ONE}/duplicate", status_code=201)
    async def duplicate_assistant(assistant: _Named, body: AssistantCopy | None = None) -> AssistantView:
        """Make a copy of its present version, under a name that must be free, or its own with a number."""
        content = (await assistants.get(assistant)).content
        if body is None or body.name is None:
            return AssistantView.of(await assistants.add(content, numbered=True))
        return AssistantView.of(await assistants.add(content.renamed(body.name)))

    @router.get(f"{_ONE}/export")
    async def export_assistant(assistant: _Named, response: Response) -> dict[str, Any]:
        """Its present version as one file, which POST /import reads."""
        content = (await assistants.get(assistant)).content
        response.headers["content-disposition"] = f"attachment; filename*={file_name(content)}"
        return exported(content)


def _of_versions(router: APIRouter, assistants: KeptAssistants) -> None:
    @router.get(f"{_ONE}/versions")
    async def list_versions(assistant: _Named) -> dict[str, Any]:
        """Its versions, newest first: when each was made, which fields it changed, which version it brought back."""
        return {"versions": [asdict(step) for step in await assistants.steps(assistant)]}

    @router.get(f"{_ONE}/versions/{{version}}")
    async def one_version(assistant: _Named, version: _Number) -> AssistantView:
        """The assistant as it was in a version."""
        return AssistantView.of(await assistants.get(assistant, version))

    @router.get(f"{_ONE}/diff")
    async def compare(
        assistant: _Named,
        first: Annotated[
            int | None, Query(alias="from", ge=1, le=2**31 - 1, description="Default: the one before `to`.")
        ] = None,
        second: Annotated[
            int | None, Query(alias="to", ge=1, le=2**31 - 1, description="Default: the present one.")
        ] = None,
    ) -> dict[str, Any]:
        """What is other in version `to` than in version `from`, field by field; for instructions a unified diff."""
        after = await assistants.get(assistant, second)
        before = await assistants.get(after.id, first or max(1, after.version - 1))
        found = [asdict(each) for each in differences(before.content, after.content)]
        return {"from": before.version, "to": after.version, "fields": found}

    @router.post(f"{_ONE}/restore")
    async def restore_version(assistant: _Named, body: AssistantRestore) -> AssistantView:
        """Make a new version that says what an old one said. Nothing is lost."""
        return AssistantView.of(await assistants.restore(assistant, body.version, if_version=body.if_version))
