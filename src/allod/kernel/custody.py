"""Whose code runs now, and which tasks it has begun: so that an extension that stops leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

from allod.kernel.faults import Misbehaved

T = TypeVar("T")
_LETS_GO_S = 1
_LOOKS_EVERY_S = 0.02
_log = logging.getLogger("allod.custody")

_owner: ContextVar[str] = ContextVar("allod_owner", default="")
_tasks: defaultdict[str, WeakSet[asyncio.Task[Any]]] = defaultdict(WeakSet)
_inside: defaultdict[str, dict[object, asyncio.Task[Any]]] = defaultdict(dict)


@contextlib.contextmanager
def acting(owner: str) -> Iterator[None]:
    """Inside, tasks that are begun belong to `owner`, and those that they begin in turn."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


@contextlib.contextmanager
def inside(owner: str) -> Iterator[None]:
    """Inside, the task that runs now is in code of `owner`'s; see `let_out`."""
    task = asyncio.current_task()
    assert task is not None
    visit = object()
    _inside[owner][visit] = task
    try:
        with acting(owner):
            yield
    finally:
        del _inside[owner][visit]


async def let_out(owner: str, grace_s: float) -> None:
    """Wait until nobody is in code of `owner`'s any more; who stays beyond `grace_s` seconds is cancelled."""
    current = asyncio.current_task()

    def left() -> list[asyncio.Task[Any]]:
        return [task for task in _inside[owner].values() if task is not current]

    deadline = asyncio.get_running_loop().time() + grace_s
    while left() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_LOOKS_EVERY_S)
    for task in left():
        task.cancel()
    await asyncio.sleep(0)


def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task of the server's own, whoever's code runs now: an extension's would end with it."""
    with acting(""):
        return asyncio.create_task(work, name=name)


async def call(owner: str, work: Callable[[], Awaitable[T]], within_s: float) -> T:
    """What `work` gives, run in a task of `owner`'s.

    Raises TimeoutError after `within_s` seconds, also where it does not let itself be cancelled (then it is left to
    run, and named); Misbehaved where it wants to end the program or cancels itself.
    """

    async def guarded() -> T:
        try:
            return await work()
        except SystemExit as error:
            raise Misbehaved("it wanted to end the whole program") from error

    with acting(owner):
        task = asyncio.create_task(guarded(), name=f"{owner}: {getattr(work, '__name__', 'work')}")
    try:
        done, _ = await asyncio.wait({task}, timeout=within_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=_LETS_GO_S)
        if not task.done():
            _log.error("%s does not let itself be cancelled", task.get_name())
        raise TimeoutError
    if task.cancelled():
        raise Misbehaved("it cancelled itself")
    return task.result()


def owner() -> str:
    """Whose code runs now; empty for the server's own."""
    return _owner.get()


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, know of each task on `loop` whose it is."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> Any:
        task = asyncio.Task(coroutine, loop=loop, **more)
        if name := _owner.get():
            _tasks[name].add(task)
        return task

    loop.set_task_factory(make)  # type: ignore[arg-type]


def tasks_of(owner: str) -> list[asyncio.Task[Any]]:
    """The tasks of `owner` that have not ended, without the one that asks."""
    current = asyncio.current_task()
    return [task for task in _tasks.get(owner, ()) if not task.done() and task is not current]


async def end_tasks(owner: str, within_s: float) -> list[str]:
    """Cancel all tasks of `owner`. Gives the names of those that have not ended after `within_s` seconds."""
    left = tasks_of(owner)
    for task in left:
        task.cancel()
    if not left:
        return []
    _, stubborn = await asyncio.wait(left, timeout=within_s)
    return sorted(task.get_name() for task in stubborn)
