"""Extensions that behave, and one for each way to misbehave. The host's tests let them in by entry points."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, Integer, String, text

from allod.sdk.chat import Run
from allod.sdk.errors import BadRequest
from allod.sdk.events import Event, ModelStateChanged, Subscription
from allod.sdk.extension import Extension, Manifest
from allod.sdk.jobs import Job, JobKind
from allod.sdk.processes import Walls
from allod.sdk.stage import Ending, Phase, Stage
from allod.sdk.storage import Migration
from allod.sdk.tools import Tool

SECRET = "what the user wrote"


def manifest(name: str, **more: Any) -> Manifest:
    return Manifest(name=name, summary="For tests.", **more)


@runtime_checkable
class Greeter(Protocol):
    def greet(self) -> str: ...


class Greeting:
    def greet(self) -> str:
        return "hello"


class Count(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: int = Field(default=3, title="To", description="How far.")


class CountJob(JobKind[Count]):
    name = "count_up"
    title = "Count"
    parameters = Count

    async def run(self, job: Job[Count]) -> Mapping[str, Any]:
        for number in range(job.parameters.to):
            job.progress(number, job.parameters.to)
        return {"counted": job.parameters.to}


class Remember(Stage):
    name = "remember"
    phase = Phase.ENRICH

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def before(self, run: Run) -> None:
        self.seen.append(run.route)


class Lookup(Tool[Count]):
    name = "lookup"
    summary = "Looks up."
    arguments = Count
    effect = "reads"

    async def call(self, arguments: Count, run: Run) -> str:
        return f"found {arguments.to}"


class Sized(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=1, ge=0, title="Size", description="How large.")


def create(op: Any) -> None:
    op.create_table("good__things", Column("id", Integer, primary_key=True), Column("what", String))


class Good(Extension[Sized]):
    """Contributes one of everything."""

    manifest = manifest("good")
    instances: ClassVar[list[Good]] = []

    async def start(self) -> None:
        self.heard: list[Event] = []
        self.befores: list[Sized] = []
        self.stage = Remember()
        Good.instances.append(self)
        await self.context.store.write(
            lambda c: c.execute(text("INSERT INTO good__things (what) VALUES ('start')"))
        )

    is_stopped = False

    async def stop(self) -> None:
        self.is_stopped = True

    async def settings_changed(self, before: Sized) -> None:
        self.befores.append(before)

    def stages(self) -> Sequence[Stage]:
        return [self.stage]

    def tools(self) -> Sequence[Tool[Any]]:
        return [Lookup()]

    def jobs(self) -> Sequence[JobKind[Any]]:
        return [CountJob()]

    def subscriptions(self) -> Sequence[Subscription[Any]]:
        async def hear(event: Event) -> None:
            self.heard.append(event)

        return [Subscription(ModelStateChanged, hear)]

    def services(self) -> Mapping[type, object]:
        return {Greeter: Greeting()}

    def migrations(self) -> Sequence[Migration]:
        return [Migration(1, "things", create)]

    def router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/size")
        async def size() -> dict[str, int]:
            """How large."""
            return {"size": self.context.settings.size}

        @router.get("/slow")
        async def slow() -> dict[str, bool]:
            """Takes a moment, and notes whether its extension was still there at the end."""
            await asyncio.sleep(0.3)
            return {"was_stopped": self.is_stopped}

        @router.get("/endless")
        async def endless() -> None:
            """Never ends."""
            await asyncio.Event().wait()

        @router.get("/mistake")
        async def mistake() -> None:
            """Fails."""
            raise KeyError(SECRET)

        @router.get("/conflict")
        async def conflict() -> None:
            """Refuses as FastAPI's own documentation teaches it."""
            raise HTTPException(409, "Taken.")

        @router.get("/refusal")
        async def refusal() -> None:
            """Refuses."""
            raise BadRequest("No.", fix="Ask otherwise.")

        return router


class Needing(Extension[Any]):
    manifest = manifest("needing", needs=("good",))

    async def start(self) -> None:
        assert self.context.service(Greeter).greet() == "hello"


class After(Extension[Any]):
    """Named so that without `after` it would be first."""

    manifest = manifest("aaa", after=("good", "absent"))


class NeedingNobody(Extension[Any]):
    manifest = manifest("lonely", needs=("absent",))


class OldContract(Extension[Any]):
    manifest = manifest("old", api=0)


class Reserved(Extension[Any]):
    manifest = manifest("settings")


class OtherName(Extension[Any]):
    manifest = manifest("other")


class NoManifest(Extension[Any]):
    pass


class StartRaises(Extension[Any]):
    manifest = manifest("start_raises")

    async def start(self) -> None:
        raise RuntimeError("no")


class StartHangs(Extension[Any]):
    manifest = manifest("start_hangs")

    async def start(self) -> None:
        await asyncio.Event().wait()


class StopRaises(Extension[Any]):
    manifest = manifest("stop_raises")

    async def stop(self) -> None:
        raise RuntimeError("no")


class ContributionRaises(Extension[Any]):
    manifest = manifest("contribution_raises")

    def stages(self) -> Sequence[Stage]:
        raise RuntimeError("no")


class Mistyped(Extension[Any]):
    manifest = manifest("mistyped")

    def tools(self) -> Any:
        return ["a tool"]


class SyncStage(Stage):
    name = "sync"
    phase = Phase.ROUTE

    def before(self, run: Run) -> None:  # type: ignore[override]
        pass


class MistypedStage(Extension[Any]):
    manifest = manifest("mistyped_stage")

    def stages(self) -> Sequence[Stage]:
        return [SyncStage()]


class MistypedService(Extension[Any]):
    manifest = manifest("mistyped_service")

    def services(self) -> Mapping[type, object]:
        return {Greeter: object()}


class RouterRaises(Extension[Any]):
    manifest = manifest("router_raises")

    def router(self) -> APIRouter:
        raise RuntimeError("no")


class RouterMistyped(Extension[Any]):
    manifest = manifest("router_mistyped")

    def router(self) -> Any:
        return "router"


class WrongSettings(Extension[Sized]):
    manifest = manifest("wrong_settings")


class MigrationRaises(Extension[Any]):
    manifest = manifest("migration_raises")

    def migrations(self) -> Sequence[Migration]:
        def up(op: Any) -> None:
            op.create_table("migration_raises__x", Column("a", Integer))
            raise RuntimeError("no")

        return [Migration(1, "x", up)]


class Thief(Extension[Any]):
    """Wants another's table."""

    manifest = manifest("thief", after=("good",))

    async def start(self) -> None:
        await self.context.store.read(lambda c: c.execute(text("SELECT * FROM good__things")).all())


class SkippedStage(Stage):
    name = "skipped"
    phase = Phase.ENRICH
    on_failure = "skip"

    def __init__(self) -> None:
        self.calls = 0
        self.fails = True

    async def before(self, run: Run) -> None:
        self.calls += 1
        if self.fails:
            raise RuntimeError(SECRET)


class RefusingStage(Stage):
    name = "refusing"
    phase = Phase.ROUTE

    async def before(self, run: Run) -> None:
        raise RuntimeError(SECRET)


class AfterStage(Stage):
    name = "after"
    phase = Phase.COMPOSE

    async def after(self, run: Run, ending: Ending) -> None:
        raise RuntimeError(SECRET)


class BadStages(Extension[Any]):
    manifest = manifest("bad_stages")

    async def start(self) -> None:
        self.stage = SkippedStage()

    def stages(self) -> Sequence[Stage]:
        return [self.stage, AfterStage()]


class Refuser(Extension[Any]):
    manifest = manifest("refuser")

    def stages(self) -> Sequence[Stage]:
        return [RefusingStage()]


class Blocking(Extension[Any]):
    """Its handler never comes back."""

    manifest = manifest("blocking")

    def subscriptions(self) -> Sequence[Subscription[Any]]:
        async def hear(event: Event) -> None:
            await asyncio.Event().wait()

        return [Subscription(ModelStateChanged, hear)]


class Leaky(Extension[Any]):
    """Leaves a task, a child process and a job behind, and holds on in stop."""

    manifest = manifest("leaky")

    async def start(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600), name="forgotten")
        import sys
        from pathlib import Path

        sleeper = "import time, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); time.sleep(3600)"
        self.child = await self.context.processes.spawn(
            "sleeper",
            lambda address: [sys.executable, "-c", sleeper, address.host],
            Walls(read=(Path(sys.prefix), Path(sys.base_prefix))),
        )


class Slow(Extension[Any]):
    """Holds the whole event loop for a moment."""

    manifest = manifest("slow")

    async def start(self) -> None:
        time.sleep(1)  # noqa: ASYNC251


class StartExits(Extension[Any]):
    manifest = manifest("start_exits")

    async def start(self) -> None:
        raise SystemExit("needs another Python")


class StartCancels(Extension[Any]):
    manifest = manifest("start_cancels")

    async def start(self) -> None:
        raise asyncio.CancelledError


class StartHoldsOn(Extension[Any]):
    """Does not let itself be cancelled, for a while."""

    manifest = manifest("start_holds_on")

    async def start(self) -> None:
        for _ in range(30):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue


class SyncHandler(Extension[Any]):
    manifest = manifest("sync_handler")

    def subscriptions(self) -> Sequence[Subscription[Any]]:
        return [Subscription(ModelStateChanged, lambda event: None)]  # type: ignore[arg-type, return-value]


class Quotes(Extension[Any]):
    """Fails with words that it was working on."""

    manifest = manifest("quotes")

    async def start(self) -> None:
        Count.model_validate({"to": SECRET})


class BadEngine:
    name = "bad"

    async def models(self) -> Sequence[Any]:
        raise RuntimeError("no")

    def chat(self, run: Run) -> Any:
        raise RuntimeError("no")


class BadModels(Extension[Any]):
    manifest = manifest("bad_models")

    def engines(self) -> Sequence[Any]:
        return [BadEngine()]


class SameTool(Tool[Count]):
    name = "b_lookup"
    summary = "Has a name that reads like another's."
    arguments = Count

    async def call(self, arguments: Count, run: Run) -> Any:
        return None


class ToolOf(Extension[Any]):
    manifest = manifest("goods")

    def tools(self) -> Sequence[Tool[Any]]:
        return [SameTool()]
