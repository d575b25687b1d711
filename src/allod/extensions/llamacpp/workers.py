"""The life of one worker: start, ready, watched while it works, stopped; and why it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from allod.sdk.engine import LoadPlan
from allod.sdk.errors import EngineGone, LoadFailed
from allod.sdk.processes import ByteStream, Child, HttpClient

_UNMEASURED_TOKEN_S = 0.5  # before a batch was seen: 2 tokens a second, slower than anything of use
_BATCH_MARGIN = 8  # times the slowest batch seen
_LOOKS_PER_TIMEOUT = 12
_COUNTS_AT_ONCE = (
    4  # each holds one of its few HTTP threads for seconds after, and it takes little to keep all cores busy
)
_END_TAKES_S = 2

# What llama.cpp prints -> what it means. Its own words are never shown: they hold paths.
_REASONS = (
    ("unknown model architecture", "this version of llama.cpp does not know its architecture"),
    ("wrong tensor", "the file's tensors are not what its architecture needs"),
    ("missing tensor", "the file lacks a tensor that its architecture needs"),
    ("is not within the file bounds", "the file is cut short"),
    ("failed to allocate", "there was not enough memory"),
    ("unable to allocate", "there was not enough memory"),
    ("out of memory", "there was not enough memory"),
    ("failed to load model", "llama.cpp could not read the file"),
    ("failed to apply lora", "a LoRA adapter does not belong to this model"),
    ("Failed to init server", "llama.cpp could not load it"),
    ("chat template", "its chat template is not valid"),
    ("no wall", "this system offers no wall around it (see `allod doctor`)"),
)


class Worker:
    """One model in one process."""

    def __init__(self, child: Child, plan: LoadPlan, *, batch_tokens: int, hang_timeout_s: float) -> None:
        self.child = child
        self.plan = plan
        self.model = plan.model
        self.purpose = plan.purpose
        self.is_ready = False
        self.own_bytes = 0
        self.progress = 0.0
        self.running = 0
        self._batch_tokens = batch_tokens
        self._hang_timeout_s = hang_timeout_s
        self._last_sign = time.monotonic()
        self._slowest_batch_s: float | None = None
        self._ended_by_us = ""
        self._emptying = asyncio.Lock()
        self.counting = asyncio.Semaphore(_COUNTS_AT_ONCE)
        self._log = logging.getLogger("allod.llamacpp")

    @property
    def http(self) -> HttpClient:
        """The client of its socket."""
        return self.child.http

    async def start(self, *, timeout_s: float, watch: Callable[[int], None] | None = None) -> None:
        """Wait until it has loaded; `watch` hears of its memory meanwhile. Raises LoadFailed, with the worker ended."""
        try:
            await self.child.ensure_ready(deadline_s=timeout_s, watch=watch)
        except EngineGone:
            raise LoadFailed(
                f"{self.model!r} could not be loaded: {await self._why()}.", fix=_LOAD_FIX
            ) from None
        except TimeoutError:
            await self.child.stop(0)
            raise LoadFailed(
                f"{self.model!r} was not loaded within {timeout_s:g} s.", fix="Raise llamacpp.load_timeout_s."
            ) from None
        except BaseException:
            await self.child.stop(0)
            raise
        self.is_ready = True

    async def _why(self) -> str:
        ended = await self.child.wait()
        printed = "\n".join(self.child.output())
        self._log.warning("%s: the worker's last words, before any request:\n%s", self.model, printed)
        for words, meaning in _REASONS:
            if words in printed:
                return meaning
        return f"its process {ended}"

    async def watch(self, gone: Callable[[str], None]) -> None:
        """Say why it ended, once it has; end it when it hangs. Runs as long as the worker."""
        hang = asyncio.create_task(self._watch_for_hang(), name=f"hang:{self.model}")
        try:
            ended = await self.child.wait()
            gone(f"its process {self._ended_by_us or ended}")
        finally:
            hang.cancel()

    @asynccontextmanager
    async def noticing_end(self) -> AsyncIterator[None]:
        """Around a request: if the worker goes, that is told only when its end is known to all.

        A socket is gone a few milliseconds before its process; the next request would meet the same worker again.
        """
        try:
            yield
        except EngineGone:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_TAKES_S):
                    await self.child.wait()
            raise

    # progress

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Around one piece of work: while there is any, silence for too long means that it hangs."""
        if self.running == 0:
            self._last_sign = time.monotonic()
        self.running += 1
        try:
            async with self.noticing_end():
                yield
        finally:
            self.running -= 1

    async def stream(self, path: str, body: Mapping[str, Any]) -> ByteStream:
        """POST what `working()` is for, and wait for the head of its answer: by then it has its slots.

        An answer that wants nothing from the cache, while nothing else is at work, gets an empty one and always the
        same slots: then a seed gives the same text to the letter. llama.cpp's sums round by where tokens lie.
        """
        async with self._emptying:
            if body.get("cache_prompt") is False and self.running == 1:
                await asyncio.gather(*(self._erase(slot) for slot in range(self.plan.slots)))
                return await self.http.stream(path, {**body, "id_slot": 0})
        return await self.http.stream(path, body)

    async def _erase(self, slot: int) -> None:
        # one that was just left is erased after the batch in work
        reply = await self.http.request("POST", f"/slots/{slot}?action=erase", {}, timeout_s=self.patience_s)
        if reply.status != 200:  # as models do that see
            self._log.debug("%s: slot %d was not erased: status %d", self.model, slot, reply.status)

    def sign(self) -> None:
        """A piece of an answer has come."""
        self._last_sign = time.monotonic()

    def read_batch(self, tokens: int) -> None:
        """A prompt_progress has come: the time since the last sign was at most one batch of so many tokens.

        Small ones say nothing of what a whole one takes.
        """
        now = time.monotonic()
        if tokens > self._batch_tokens // 2:
            self._slowest_batch_s = max(now - self._last_sign, self._slowest_batch_s or 0.0)
        self._last_sign = now

    @property
    def patience_s(self) -> float:
        """Seconds of silence that one batch explains, and the timeout on top."""
        if self._slowest_batch_s is None:
            return self._hang_timeout_s + self._batch_tokens * _UNMEASURED_TOKEN_S
        return self._hang_timeout_s + self._slowest_batch_s * _BATCH_MARGIN

    async def _watch_for_hang(self) -> None:
        deaf = 0
        while True:
            await asyncio.sleep(self._hang_timeout_s / _LOOKS_PER_TIMEOUT)
            silent_s = time.monotonic() - self._last_sign
            if self.running == 0 or silent_s < self._hang_timeout_s / 2:
                deaf = 0
                continue
            deaf = 0 if await self._answers() else deaf + 1
            if deaf >= 3 or silent_s > self.patience_s:
                self._log.warning("%s: no sign of progress for %.0f s: ended", self.model, silent_s)
                self._ended_by_us = f"gave no sign of progress for {silent_s:.0f} s and was ended"
                await self.child.stop(0)
                return

    async def _answers(self) -> bool:
        """Whether its HTTP threads answer; they do so also in the middle of a batch."""
        try:
            await self.http.request(
                "GET", "/health", timeout_s=max(1.0, self._hang_timeout_s / _LOOKS_PER_TIMEOUT)
            )
        except EngineGone:
            return False
        return True

    def report(self) -> Mapping[str, object]:
        """For `allod ps`."""
        return {"pid": self.child.pid, "progress": round(self.progress, 2), "walls": dict(self.child.walls)}


_LOAD_FIX = "Replace the file, or choose another model; `allod doctor` may know more."
