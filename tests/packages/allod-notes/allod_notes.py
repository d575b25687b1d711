"""allod-notes: keeps notes and gives them to the model, written against the public contract only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, func, insert, select

from allod.sdk.chat import ChatRequest, Run
from allod.sdk.context import Context
from allod.sdk.extension import Extension, Manifest
from allod.sdk.jobs import Job, JobKind
from allod.sdk.stage import Phase, Stage
from allod.sdk.storage import Migration
from allod.sdk.tools import Tool

_notes = Table(
    "notes__notes",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("text", String, nullable=False),
)


def _create(op: Any) -> None:
    op.create_table(
        "notes__notes", Column("id", Integer, primary_key=True), Column("text", String, nullable=False)
    )


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(
        default="Note:", title="Prefix", description="Stands before each note that the model is told."
    )


class Store:
    def __init__(self, context: Context[Settings]) -> None:
        self._store = context.store

    async def all(self) -> list[str]:
        return await self._store.read(
            lambda connection: list(connection.execute(select(_notes.c.text).order_by(_notes.c.id)).scalars())
        )

    async def add(self, text: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(insert(_notes), {"text": text})

        await self._store.write(work)

    async def count(self) -> int:
        query = select(func.count()).select_from(_notes)
        return await self._store.read(lambda connection: connection.execute(query).scalar_one())


class TellNotes(Stage):
    name = "notes"
    phase = Phase.ENRICH

    def __init__(self, context: Context[Settings], store: Store) -> None:
        self._context = context
        self._store = store

    async def before(self, run: Run) -> None:
        notes = await self._store.all()
        if notes and isinstance(run.request, ChatRequest):
            run.request.add_system_text(
                "\n".join(f"{self._context.settings.prefix} {note}" for note in notes)
            )
            run.note(self.name, told=len(notes))


class Wanted(BaseModel):
    contains: str = Field(default="", title="Contains", description="Only notes with this word.")


class CountNotes(Tool[Wanted]):
    name = "count"
    summary = "Counts the notes that contain a word."
    arguments = Wanted
    effect = "reads"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call(self, arguments: Wanted, run: Run) -> str:
        return str(sum(arguments.contains in note for note in await self._store.all()))


class Import(BaseModel):
    texts: list[str] = Field(title="Texts", description="What to keep.")
    pause_s: float = Field(default=0, title="Pause", description="Between two of them.")


class ImportNotes(JobKind[Import]):
    name = "import_notes"
    title = "Import notes"
    parameters = Import

    async def run(self, job: Job[Import]) -> Mapping[str, Any]:
        texts = job.parameters.texts
        for number in range(int(job.state.get("done", 0)), len(texts)):
            await asyncio.sleep(job.parameters.pause_s)

            def keep(connection: Connection, text: str = texts[number]) -> None:
                connection.execute(insert(_notes), {"text": text})

            await job.save({"done": number + 1}, keep)
            job.progress(number + 1, len(texts))
        return {"kept": len(texts)}


class NewNote(BaseModel):
    text: str = Field(min_length=1, description="What to keep.")


class Source(BaseModel):
    url: str = Field(description="Where it is.")


class Notes(Extension[Settings]):
    manifest = Manifest(name="notes", summary="Keeps notes and gives them to the model.", egress=("user",))

    async def start(self) -> None:
        self._store = Store(self.context)

    def migrations(self) -> Sequence[Migration]:
        return [Migration(1, "notes", _create)]

    def stages(self) -> Sequence[Stage]:
        return [TellNotes(self.context, self._store)]

    def tools(self) -> Sequence[Tool[Any]]:
        return [CountNotes(self._store)]

    def jobs(self) -> Sequence[JobKind[Any]]:
        return [ImportNotes()]

    def router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/notes")
        async def list_notes() -> dict[str, Any]:
            """All notes, oldest first."""
            return {"notes": await self._store.all()}

        @router.post("/notes", status_code=201)
        async def add_note(body: NewNote) -> dict[str, int]:
            """Keep a note."""
            await self._store.add(body.text)
            return {"count": await self._store.count()}

        @router.post("/fetched", status_code=201)
        async def fetch_note(body: Source) -> dict[str, str]:
            """Keep what is at an address."""
            async with self.context.http.open("GET", body.url, purpose="import", timeout_s=10) as answer:
                text = (await answer.read(10_000)).decode()
            await self._store.add(text)
            return {"kept": text}

        return router
