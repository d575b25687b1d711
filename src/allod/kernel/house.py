"""Everything that needs the open store, put together: what app.py opens at start, or when a person unlocks it.

Implements the host's `Rooms`: what each extension gets, and who uses what it contributes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from sqlalchemy import Connection, select

from allod.kernel import custody, schema
from allod.kernel.api_keys import ApiKeys
from allod.kernel.authorizer import KERNEL
from allod.kernel.blobs import OwnBlobs
from allod.kernel.context import ExtensionContext, OwnProcesses, Services
from allod.kernel.contributions import Contributions
from allod.kernel.egress import Egress
from allod.kernel.event_stream import EventStream
from allod.kernel.events import EventBus
from allod.kernel.host import Host
from allod.kernel.installed import points
from allod.kernel.jobs import JobRunner
from allod.kernel.memory import free_memory
from allod.kernel.metrics import Metrics
from allod.kernel.migrations import Migrator
from allod.kernel.models import ModelDesk, ModelTable
from allod.kernel.offers import offers
from allod.kernel.paths import Paths
from allod.kernel.pipeline import Pipeline
from allod.kernel.processes import ChildProcesses
from allod.kernel.scheduler import Scheduler
from allod.kernel.secrets import OwnSecrets
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.kernel.settings import Settings
from allod.kernel.stages import Stages
from allod.kernel.storage import Database, OwnStore
from allod.kernel.toolbox import Toolbox
from allod.kernel.watchdog import Watchdog
from allod.sdk.chat import Caller, GenerateRequest, Purpose, Run
from allod.sdk.engine import LoadableEngine
from allod.sdk.errors import BadRequest
from allod.sdk.events import ExtensionStateChanged, SettingsChanged
from allod.sdk.extension import Extension
from allod.sdk.stream import OpenedChat

_CLEAR_S = 5
_GRACE_S = 3
_FLUSH_S = 60
_PRUNE_EVERY = 60
_log = logging.getLogger("allod.house")


class House:
    """The kernel of a server whose store is open."""

    def __init__(
        self,
        *,
        paths: Paths,
        database: Database,
        settings: Settings,
        keys: ApiKeys,
        sessions: Sessions,
        processes: ChildProcesses,
        metrics: Metrics,
        builtin_only: bool = False,
        points: Callable[[], Sequence[EntryPoint]] = points,
    ) -> None:
        self.paths = paths
        self.database = database
        self.settings = settings
        self.keys = keys
        self.sessions = sessions
        self.processes = processes
        self._builtin_only = builtin_only
        self.metrics = metrics
        self.migrator = Migrator(database, paths.backups)
        self.events = EventBus(database)
        self.jobs = JobRunner(database, self.events)
        self.egress = Egress(database, self.events.of(KERNEL))
        server: ServerSettings = settings.current("server")
        self.scheduler = Scheduler(
            free_bytes=free_memory(server.memory_budget_mib),
            events=self.events.of(KERNEL),
            metrics=metrics,
            max_waiting=server.max_waiting,
            keep_alive_s=server.keep_alive_s,
        )
        self.host = Host(self, builtin_only=builtin_only, points=points)
        self.services = Services()
        self.stages = Stages(self.events.of(KERNEL))
        self.toolbox = Toolbox()
        self.table = ModelTable(self.host.engines, server.default_model)
        self.models = ModelDesk(self.table, self.scheduler)
        self.pipeline = Pipeline(
            models=self.table,
            scheduler=self.scheduler,
            stages=self.stages,
            toolbox=self.toolbox,
            events=self.events.of(KERNEL),
            metrics=metrics,
        )
        self._watchdog = Watchdog(self.host.packages)
        self._own_processes: dict[str, OwnProcesses] = {}
        self._own_http: dict[str, Any] = {}
        self._tidying: asyncio.Task[None] | None = None

    # life

    async def prepare(self) -> None:
        """Bring the kernel's tables up to date, and read what it keeps."""
        custody.watch(asyncio.get_running_loop())
        await asyncio.to_thread(self.migrator.bring_up, KERNEL, schema.MIGRATIONS)
        # the safe mode also gets out of settings with which no server starts
        await self.settings.attach(self.database, without=("server",) if self._builtin_only else ())
        self.apply_server_settings()
        await self.keys.attach(self.database, self.paths.old_api_keys)
        await self.sessions.attach(self.database)

    async def start(self) -> None:
        """Start all extensions."""
        self._watchdog.start()
        await self.events.start()
        self.event_stream = EventStream(self.events, self.events.outbox)
        await self.jobs.open()
        await self.egress.load()
        await self.host.start()
        self.scheduler.start()
        self._tidying = custody.begin(self._tidy_now_and_then(), "tidy")

    async def close(self) -> None:
        """Stop everything, the store last. Whatever goes wrong on the way, the rest is stopped too."""
        self._watchdog.stop()
        if self._tidying is not None:
            self._tidying.cancel()
        for close in (
            self.jobs.close,  # first, so that what waits for a model goes back in line
            self.host.stop,
            self.scheduler.close,
            self.egress.close,
            self.events.close,
            self._flush,
            self.database.close,
        ):
            try:
                await close()
            except Exception:
                _log.exception("something did not stop in order")

    async def _tidy_now_and_then(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(_FLUSH_S)
            try:
                await self._flush()
                if turn % _PRUNE_EVERY == 0:
                    await self.jobs.prune()
                    await self.events.prune()
            except Exception:
                _log.exception("what was used and what is old was not written down")

    async def _flush(self) -> None:
        await self.keys.flush()
        await self.sessions.flush()

    # settings

    async def change_settings(self, namespace: str, values: Mapping[str, Any]) -> None:
        """Keep the user's new values, and tell who is concerned. Raises BadRequest, NotFound."""
        check = partial(_check_server, fields=values.keys()) if namespace == "server" else None
        changed = await self.settings.change(namespace, values, self._teller(namespace), check)
        await self._tell(namespace, changed)

    async def reset_setting(self, namespace: str, field: str) -> None:
        """Take the user's change of one field back, and tell who is concerned."""
        await self._tell(namespace, await self.settings.reset(namespace, field, self._teller(namespace)))

    def _teller(self, namespace: str) -> Any:
        async def tell(before: Any) -> None:
            if namespace == "server":
                self.apply_server_settings()
            else:
                await self.host.settings_changed(namespace, before)
                self.table.forget()

        return tell

    async def _tell(self, namespace: str, changed: Sequence[str]) -> None:
        if changed:
            self.events.of(KERNEL).publish(SettingsChanged(namespace, tuple(changed)))

    def apply_server_settings(self) -> None:
        """Hand the server's settings on to those who keep a value of them."""
        server: ServerSettings = self.settings.current("server")
        self.scheduler.free_bytes = free_memory(server.memory_budget_mib)
        self.scheduler.max_waiting = server.max_waiting
        self.scheduler.keep_alive_s = server.keep_alive_s
        self.table.default_name = server.default_model

    # what the host asks for one extension

    async def context(self, kind: type[Extension[Any]]) -> ExtensionContext:
        """Its context, with its settings read. Raises StartFailed."""
        name = kind.manifest.name
        self.settings.load(name, kind.Settings)
        processes = self._own_processes[name] = OwnProcesses(self.processes)
        http = self._own_http[name] = self.egress.client(name, kind.manifest.egress)
        return ExtensionContext(
            name,
            settings=self.settings,
            data_folder=self.paths.data,
            store=OwnStore(self.database, name),
            blobs=OwnBlobs(self.paths.blobs, name),
            secrets=OwnSecrets(self.database, name),
            http=http,
            events=self.events.of(name),
            jobs=self.jobs.of(name),
            processes=processes,
            models=self.models,
            chat=OwnChat(self.pipeline, name),
            services=self.services,
        )

    async def migrate(self, extension: Extension[Any]) -> None:
        """Bring its tables up to date. Raises MigrationFailed."""
        migrations = extension.migrations()
        await asyncio.to_thread(self.migrator.bring_up, extension.manifest.name, migrations)

    async def seat(self, name: str, contributions: Contributions) -> None:
        """Hand what it contributes to who uses it."""
        self.services.offer(name, contributions.services)
        self.stages.seat(name, contributions.stages)
        self.toolbox.add(name, contributions.tools)
        self.table.forget()
        for subscription in contributions.subscriptions:
            self.events.subscribe(
                name, subscription.kind, subscription.handler, f"{name}:{subscription.kind.__name__}"
            )
        await self.jobs.register(name, contributions.jobs)

    async def unseat(self, name: str, contributions: Contributions) -> None:
        """Take all of that back. Nothing of it runs afterwards but its `stop`."""
        self.stages.unseat(name)
        self.toolbox.remove(name)
        self.services.withdraw(name)
        await custody.let_out(name, _GRACE_S)
        await self.jobs.withdraw(name)
        await self.events.end(name)
        self.table.forget()
        for engine in contributions.engines:
            if offers(engine, LoadableEngine):
                await self.scheduler.drop(engine)

    def reorder(self, names: Sequence[str]) -> None:
        """Stages of one phase have their turn in the order of their extensions."""
        self.stages.reorder(names)
        self.table.forget()

    async def clear(self, name: str) -> list[str]:
        """End what it left behind. Says what that was."""
        left = [f"the task {task}" for task in await _ended(name)]
        if name in self._own_processes:
            left += [f"the process {child}" for child in await self._own_processes.pop(name).close()]
        if name in self._own_http:
            await self._own_http.pop(name).close()
        return left

    async def disabled(self) -> set[str]:
        """Names of those that the user has switched off."""
        table = schema.extensions
        query = select(table.c.name).where(table.c.enabled.is_(False))
        return set(await self.database.read(lambda connection: connection.execute(query).scalars().all()))

    async def set_enabled(self, name: str, enabled: bool) -> None:
        """Keep the user's choice."""
        table = schema.extensions

        def work(connection: Connection) -> None:
            connection.execute(table.delete().where(table.c.name == name))
            connection.execute(table.insert(), {"name": name, "enabled": enabled})

        await self.database.write(work)

    def publish(self, event: ExtensionStateChanged) -> None:
        """Tell it."""
        self.events.of(KERNEL).publish(event)


def _check_server(settings: ServerSettings, fields: Collection[str]) -> None:
    """Raises BadRequest for TLS files with which the next start would fail."""
    named = [field for field in ("tls_certificate", "tls_key") if field in fields]
    if named and (problem := settings.tls_problem()):
        raise BadRequest(
            f"{problem}.",
            fix="Nothing was changed. Both files are PEM, the key without a passphrase.",
            param=named[0],
        )


class OwnChat:
    """The one door to every model, as one extension sees it."""

    def __init__(self, pipeline: Pipeline, extension: str) -> None:
        self._pipeline = pipeline
        self._extension = extension

    async def open(
        self, request: GenerateRequest, *, tools: Sequence[str] = (), purpose: Purpose = "chat"
    ) -> OpenedChat:
        """Begin an answer."""
        caller = Caller(f"extension:{self._extension}", frozenset({"chat", self._extension}))
        run = Run(request, caller, f"extension:{self._extension}", purpose=purpose, tools=tuple(tools))
        return await self._pipeline.open(run)


async def _ended(name: str) -> list[str]:
    """The tasks that an extension left running; they are cancelled now."""
    names = sorted(task.get_name() for task in custody.tasks_of(name))
    stubborn = await custody.end_tasks(name, _CLEAR_S)
    for task in stubborn:
        _log.error("the task %s of %s does not end", task, name)
    return names
