"""What an extension contributes, asked for once and looked at before anybody uses it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from allod.kernel.faults import Mistyped
from allod.sdk.engine import Engine
from allod.sdk.events import Event, Subscription
from allod.sdk.extension import Extension
from allod.sdk.jobs import JobKind
from allod.sdk.stage import Phase, Stage
from allod.sdk.tools import Tool

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Contributions:
    """All of one extension, but its routes."""

    engines: tuple[Engine, ...] = ()
    stages: tuple[Stage, ...] = ()
    tools: tuple[Tool[Any], ...] = ()
    jobs: tuple[JobKind[Any], ...] = ()
    subscriptions: tuple[Subscription[Any], ...] = ()
    services: Mapping[type, object] = field(default_factory=dict)


def gather(extension: Extension[Any]) -> Contributions:
    """Ask an extension for everything. Raises Mistyped, which says what is wrong, and whatever it raises itself."""
    found = Contributions(
        engines=_all("engines", extension.engines(), Engine),
        stages=_all("stages", extension.stages(), Stage),
        tools=_all("tools", extension.tools(), Tool),
        jobs=_all("jobs", extension.jobs(), JobKind),
        subscriptions=_all("subscriptions", extension.subscriptions(), Subscription),
        services=dict(extension.services()),
    )
    _check_engines_and_services(found)
    _check_stages(found)
    _check_work(found)
    return found


def _check_stages(found: Contributions) -> None:
    for stage in found.stages:
        _check_name("stage", stage)
        if not isinstance(getattr(stage, "phase", None), Phase):
            raise Mistyped(f"the stage {stage.name!r} names no phase")
        if stage.on_failure not in ("refuse", "skip"):
            raise Mistyped(f"the stage {stage.name!r} has on_failure = {stage.on_failure!r}")
        _check_async(stage, "before", "after")


def _check_work(found: Contributions) -> None:
    for tool in found.tools:
        _check_name("tool", tool)
        _check_model(f"the tool {tool.name!r}", getattr(tool, "arguments", None))
        _check_async(tool, "call")
    for job in found.jobs:
        _check_name("job", job)
        _check_model(f"the job {job.name!r}", getattr(job, "parameters", None))
        _check_async(job, "run")
    for subscription in found.subscriptions:
        if not (isinstance(subscription.kind, type) and issubclass(subscription.kind, Event)):
            raise Mistyped(f"it subscribes to {subscription.kind!r}, which is no event")
        if subscription.kind is Event:
            raise Mistyped("it subscribes to Event itself: only events of one class can be heard")
        if not inspect.iscoroutinefunction(subscription.handler):
            raise Mistyped(f"its handler of {subscription.kind.__name__} is not `async def`")


def _check_engines_and_services(found: Contributions) -> None:
    for engine in found.engines:
        _check_async(engine, "models")
    for kind, service in found.services.items():
        if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
            raise Mistyped(f"the interface {kind.__name__} needs @runtime_checkable")
        if not isinstance(service, kind):
            raise Mistyped(f"its service {type(service).__name__} is no {kind.__name__}")


def _all(what: str, given: Iterable[Any], kind: type[Any]) -> tuple[Any, ...]:
    if not isinstance(given, Iterable):
        raise Mistyped(f"{what}() gives {type(given).__name__}, not a sequence")
    items = tuple(given)
    for item in items:
        if not isinstance(item, kind):
            raise Mistyped(f"{what}() gives {item!r}, which is no {kind.__name__}")
    return items


def _check_name(what: str, item: Any) -> None:
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Mistyped(f"the {what} {type(item).__name__} has the name {name!r}, which is not like a_name")


def _check_model(where: str, model: Any) -> None:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise Mistyped(f"{where} takes {model!r}, which is no pydantic model")


def _check_async(item: Any, *methods: str) -> None:
    for method in methods:
        if not inspect.iscoroutinefunction(getattr(item, method)):
            raise Mistyped(f"{type(item).__name__}.{method} is not `async def`")
