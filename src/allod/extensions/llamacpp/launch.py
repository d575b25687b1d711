"""Starts a worker: its options from plan and settings, its command line, its walls. Waiting for it is the caller's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from allod.extensions.llamacpp.catalog import ModelFile
from allod.extensions.llamacpp.command import (
    WorkerOptions,
    builtin_command,
    known_flags,
    program_command,
    worker_environment,
)
from allod.extensions.llamacpp.settings import LlamaCppSettings
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.context import Context
from allod.sdk.engine import LoadPlan, ModelId
from allod.sdk.processes import Address, Walls

_COUNTING_TOKENS = 256  # of its context, which nothing is ever read into
_COUNTING_BATCH = 32


class Launcher:
    """Starts workers by the settings as they are now. `unwritable` is an empty folder that none can write to."""

    def __init__(self, context: Context[LlamaCppSettings], unwritable: Path) -> None:
        self._context = context
        self._unwritable = unwritable
        self._known_flags: dict[Path, frozenset[str]] = {}

    async def model(self, plan: LoadPlan, file: ModelFile) -> Worker:
        """A worker that loads a model."""
        options = self._options(plan, file)
        return await self._start(options, (*file.parts, file.path.resolve()))

    async def counter(self, file: ModelFile, vocabulary: Path) -> Worker:
        """A worker that knows only the vocabulary of a model, made by vocabulary.py, and its chat template."""
        plan = LoadPlan(ModelId(file.id), {}, _COUNTING_TOKENS, _COUNTING_TOKENS, 1)
        options = replace(
            self._options(plan, file),
            model=vocabulary,
            mmproj=None,
            lora=(),
            pooling="",
            embedding_only=False,
            gpu_layers=0,
            threads=1,
            batch_tokens=_COUNTING_BATCH,
            cache_ram_mib=0,
        )
        return await self._start(options, (vocabulary,))

    async def _start(self, options: WorkerOptions, files: Sequence[Path]) -> Worker:
        command = await self._command(options)
        name = repr(options.plan.model)
        child = await self._context.processes.spawn(name, command, self._walls(options, files))
        timeout_s = self._context.settings.hang_timeout_s
        return Worker(child, options.plan, batch_tokens=options.batch_tokens, hang_timeout_s=timeout_s)

    def _options(self, plan: LoadPlan, file: ModelFile) -> WorkerOptions:
        settings = self._context.settings
        own = settings.for_model(plan.model)
        embedding_only = "chat" not in file.card().capabilities
        return WorkerOptions(
            plan=plan,
            model=file.path,
            mmproj=file.mmproj,
            lora=own.lora,
            chat_template=own.chat_template,
            pooling=own.embeddings,
            embedding_only=embedding_only,
            cache_type_k=own.cache_type_k,
            cache_type_v=own.cache_type_v,
            gpu_layers=own.gpu_layers,
            threads=settings.threads,
            # an encoder reads a whole input in one batch
            batch_tokens=plan.context_tokens if embedding_only else settings.batch_tokens,
            cache_ram_mib=settings.cache_ram_mib,
            unwritable=self._unwritable,
        )

    async def _command(self, options: WorkerOptions) -> Callable[[Address], Sequence[str]]:
        program = self._context.settings.binary
        if program is None:
            return lambda address: builtin_command(options, address)
        if program not in self._known_flags:
            self._known_flags[program] = await known_flags(self._context.processes, program)
        known = self._known_flags[program]
        return lambda address: program_command(options, address, program, known)

    def _walls(self, options: WorkerOptions, files: Sequence[Path]) -> Walls:
        program = self._context.settings.binary
        if program is None:
            worker = Path(__file__).with_name("worker.py")
            programs = [Path(sys.prefix), Path(sys.base_prefix), worker, *_packages()]
        else:
            programs = [program, program.resolve().parent, program.resolve().parent.parent / "lib"]
            if _is_script(program):  # which needs its interpreter too
                programs += [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[3]]
        files = [*files, *options.lora]
        files += [path for path in (options.mmproj, options.chat_template) if path is not None]
        return Walls(read=(*programs, *files, options.unwritable), environment=worker_environment())


def _packages() -> list[Path]:
    """Where llama.cpp is installed: not always in this environment (`pip --user`, one that sees another's packages)."""
    found = importlib.util.find_spec("xllamacpp")
    return [Path(found.origin).parents[1]] if found is not None and found.origin else []


def _is_script(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) == b"#!"
