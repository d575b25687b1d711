"""One job while it runs: what its code is handed, what it tells on the way, and how it ended."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from allod.kernel import custody, job_table
from allod.kernel.authorizer import KERNEL
from allod.kernel.job_table import Claimed, Outcome, Progress
from allod.kernel.storage import Database, acting_as
from allod.sdk.errors import AllodError, Conflict, ExtensionFailed
from allod.sdk.jobs import JobKind, JobState

_TELL_EVERY_S = 0.2
_KEEP_EVERY_S = 1.0
_REPORT = "Report it to the author of the extension."
_log = logging.getLogger("allod.jobs")


class RunningJob:
    """Implements `sdk.jobs.Job`. `tell` is called when it got further, five times a second at most."""

    def __init__(
        self,
        claimed: Claimed,
        extension: str,
        kind: JobKind[Any],
        database: Database,
        tell: Callable[[RunningJob], None],
    ) -> None:
        self.id = claimed.id
        self.extension = extension
        self.kind = kind
        self.parameters: Any = None
        self.state: Mapping[str, Any] = json.loads(claimed.state)
        self.at = claimed.progress
        self.then: JobState | None = None
        """The state that somebody wants it to be in, instead of running to its end."""
        self.is_abandoned = False
        """Whether it did not let go in time: what it still does counts for nothing."""
        self.gone = asyncio.Event()
        """Set once it is no longer one of those that run."""
        self.driver: asyncio.Task[None] | None = None
        """What sees it to its end."""
        self._database = database
        self._tell = tell
        self._saved = claimed.state
        self._loop = asyncio.get_running_loop()
        self._tells_soon = False
        self._told_at = self._kept_at = -math.inf
        self._keeping: asyncio.Task[None] | None = None
        with custody.acting(extension):
            self.work = asyncio.create_task(self._work(claimed.parameters), name=f"job:{extension}:{self.id}")

    async def _work(self, parameters: str) -> str | None:
        """Its result as JSON."""
        try:
            self.parameters = self.kind.parameters.model_validate_json(parameters)
        except ValidationError:
            raise ExtensionFailed(
                f"This version of {self.extension!r} cannot read what the job was asked for.",
                fix="Start it anew, or go back to the version that it was started with.",
            ) from None
        result = await self.kind.run(self)
        return None if result is None else self._as_json(result, "result")

    def progress(self, done: float, total: float = 0, note: str = "") -> None:
        """Tell how far it is, from any thread."""
        if not (math.isfinite(done) and math.isfinite(total)):
            raise ValueError("progress is a finite number")
        self.at = Progress(done, total, _clean(note))
        if not self._tells_soon:
            self._tells_soon = True
            self._loop.call_soon_threadsafe(self._tell_in_time)

    async def save(
        self, state: Mapping[str, Any], also: Callable[[Connection], object] | None = None
    ) -> None:
        """Keep `state` and what `also` writes, in one transaction."""
        text = self._as_json(state, "saved state")

        def keep(connection: Connection) -> None:
            if self.is_abandoned:
                raise Conflict(f"Job {self.id!r} was stopped, and did not let go.", fix="Nothing was kept.")
            with acting_as(connection, KERNEL):
                job_table.save(connection, self.id, text, self.at, is_new=text != self._saved)
            if also is not None:
                also(connection)

        await self._database.write(keep, self.extension)
        self._saved = text
        self.state = json.loads(text)

    def stop(self, then: JobState) -> None:
        """End it in good order. The last who asks wins; one that has just come to its end is left alone."""
        if self.work.done():
            return
        if self.then is None:
            self.work.cancel()
        self.then = then

    def outcome(self) -> Outcome:
        """How it ended. Asked once, after `work` is done."""
        error = asyncio.CancelledError() if self.work.cancelled() else self.work.exception()
        if error is None and self.then is None:
            return Outcome("done", self.work.result())
        if isinstance(error, AllodError):
            _log.warning("job %s (%s of %s): %s", self.id, self.kind.name, self.extension, error.detail)
        elif isinstance(error, Exception) or (error is not None and self.then is None):
            _log.error("job %s (%s of %s) failed", self.id, self.kind.name, self.extension, exc_info=error)
        if self.then is not None:
            return Outcome(self.then)
        if isinstance(error, AllodError):
            return Outcome("failed", error=_clean(error.detail), fix=_clean(error.fix))
        fix = f"The server's log says where. {_REPORT} To try it again: allod jobs resume {self.id}"
        return Outcome("failed", error=f"{type(error).__name__} in {self.extension}", fix=fix)

    async def settle(self) -> None:
        """Wait until nothing of it is being written any more."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping])

    def _tell_in_time(self) -> None:
        wait_s = self._told_at + _TELL_EVERY_S - self._loop.time()
        self._loop.call_later(max(0.0, wait_s), self._tell_now)

    def _tell_now(self) -> None:
        self._tells_soon = False
        if self.work.done():
            return  # its end is told with the last values
        self._told_at = self._loop.time()
        self._tell(self)
        if self._told_at >= self._kept_at + _KEEP_EVERY_S and (self._keeping is None or self._keeping.done()):
            self._kept_at = self._told_at
            self._keeping = custody.begin(self._keep(), f"job progress:{self.id}")

    async def _keep(self) -> None:
        try:
            await self._database.write(
                lambda connection: job_table.keep_progress(connection, self.id, self.at)
            )
        except AllodError as error:
            _log.warning("the progress of job %s was not kept: %s", self.id, error.detail)

    def _as_json(self, value: object, what: str) -> str:
        try:
            if isinstance(value, Mapping):
                return json.dumps(dict(value), allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            pass  # said below, as for what is no object at all
        raise ExtensionFailed(
            f"The {what} of a job {self.kind.name!r} of {self.extension!r} is not a JSON object.", fix=_REPORT
        )


def _clean(text: str) -> str:
    """Without what no database takes: halves of a character, as in names of files that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()
