"""The stages of all extensions, in the order in which every run passes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from allod.kernel import custody
from allod.kernel.faults import is_fault
from allod.sdk.chat import Run
from allod.sdk.errors import AllodError, ExtensionFailed
from allod.sdk.events import Events, StageRemoved
from allod.sdk.stage import Ending, Phase, Stage

_MOST_FAILURES = 5
_log = logging.getLogger("allod.stages")


@dataclass(slots=True)
class Seated:
    """A stage, whose it is, and how often in a row it has failed."""

    extension: str
    stage: Stage
    failures: int = 0


class Stages:
    """Takes runs through. What is asked for at a run's beginning also ends it, whatever changes meanwhile."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._seated: tuple[Seated, ...] = ()

    @property
    def all(self) -> tuple[Seated, ...]:
        """Those that are in now, by phase."""
        return self._seated

    def seat(self, extension: str, stages: Sequence[Stage]) -> None:
        """Add an extension's stages: within a phase behind those that are there, for extensions start in order."""
        added = [Seated(extension, stage) for stage in stages]
        self._seated = tuple(sorted([*self._seated, *added], key=lambda each: each.stage.phase))

    def reorder(self, extensions: Sequence[str]) -> None:
        """Put those of one phase in the order of their extensions."""
        place = {name: number for number, name in enumerate(extensions)}
        self._seated = tuple(
            sorted(self._seated, key=lambda each: (each.stage.phase, place.get(each.extension, len(place))))
        )

    def unseat(self, extension: str) -> None:
        """Take an extension's stages out."""
        self._seated = tuple(each for each in self._seated if each.extension != extension)

    async def before(self, run: Run, phases: Sequence[Phase] = tuple(Phase)) -> None:
        """Let each stage of these phases look at `run`.

        Raises what a stage refuses with; ExtensionFailed where one that must not be skipped has failed.
        """
        for seated in self._seated:
            if seated.stage.phase in phases:
                await self._before(seated, run)

    async def _before(self, seated: Seated, run: Run) -> None:
        stage = seated.stage
        try:
            with custody.inside(seated.extension):
                async with asyncio.timeout(stage.timeout_s):
                    await stage.before(run)
            seated.failures = 0
        except BaseException as error:
            if not is_fault(error):
                raise
            if stage.on_failure == "skip":
                self._skip(seated, run, error)
                return
            if isinstance(error, AllodError):
                raise
            _log.exception("the stage %s of %s failed", stage.name, seated.extension)
            raise ExtensionFailed(
                f"The stage {stage.name!r} of the extension {seated.extension!r} failed, so nothing was sent on.",
                fix=f"See the log, or switch it off: allod extensions disable {seated.extension}",
            ) from error

    def _skip(self, seated: Seated, run: Run, error: BaseException) -> None:
        seated.failures += 1
        _log.warning(
            "the stage %s of %s failed and was skipped: %s",
            seated.stage.name,
            seated.extension,
            type(error).__name__,
        )
        run.note(seated.stage.name, skipped=True)
        if seated.failures >= _MOST_FAILURES:
            self._seated = tuple(each for each in self._seated if each is not seated)
            _log.warning(
                "the stage %s of %s is out, after %d failures in a row; `allod extensions restart %s` tries again",
                seated.stage.name,
                seated.extension,
                seated.failures,
                seated.extension,
            )
            self._events.publish(StageRemoved(seated.extension, seated.stage.name))

    async def after(self, seated: Sequence[Seated], run: Run, ending: Ending) -> None:
        """Let each of `seated` look at a run that has ended. None of them can change how it ended."""
        for each in seated:
            if each not in self._seated:
                continue  # its extension has been stopped meanwhile
            try:
                with custody.inside(each.extension):
                    async with asyncio.timeout(each.stage.timeout_s):
                        await each.stage.after(run, ending)
            except BaseException as error:
                if not is_fault(error):
                    raise
                _log.exception("the stage %s of %s failed after a run", each.stage.name, each.extension)
