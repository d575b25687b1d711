"""The engine: lists GGUF models, loads each into a worker of its own, and hands requests to it."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from allod.extensions.llamacpp.asks import chat_stream, completion_stream, detokenized, template_input
from allod.extensions.llamacpp.catalog import Catalog, ModelFile
from allod.extensions.llamacpp.command import (
    WorkerOptions,
    builtin_command,
    known_flags,
    program_command,
    worker_environment,
)
from allod.extensions.llamacpp.planner import Wanted, plan_load
from allod.extensions.llamacpp.settings import LlamaCppSettings
from allod.extensions.llamacpp.streams import ask_json
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.chat import ChatRequest, CompletionRequest, EmbeddingRequest, GenerateRequest, Run
from allod.sdk.context import Context
from allod.sdk.engine import CPU, DeviceId, Embedding, LoadPlan, ModelCard, ModelId, Tokens
from allod.sdk.errors import BadRequest, EngineGone, LoadFailed, UnsupportedParameter
from allod.sdk.processes import Address, Walls
from allod.sdk.stream import ChatStream

_MIB = 1 << 20
_LONGEST_AUTOMATIC_CONTEXT = 8192


class LlamaCppEngine:
    """llama.cpp, one process for each loaded model."""

    name = "llamacpp"

    def __init__(self, context: Context[LlamaCppSettings], catalog: Catalog, unwritable: Path) -> None:
        self._context = context
        self._unwritable = unwritable
        self._workers: dict[ModelId, Worker] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._known_flags: dict[Path, frozenset[str]] = {}
        self.catalog = catalog

    # models

    async def models(self) -> Sequence[ModelCard]:
        """All models, with the context that requests may use here."""
        return [self._card(file) for file in await asyncio.to_thread(self.catalog.scan)]

    def _card(self, file: ModelFile) -> ModelCard:
        card = file.card()
        settings = self._context.settings.for_model(card.id)
        context = min(
            settings.context_tokens or _LONGEST_AUTOMATIC_CONTEXT, card.context_tokens or sys.maxsize
        )
        capabilities = card.capabilities
        if settings.embeddings and "embedding" not in capabilities:
            capabilities = (*capabilities, "embedding")
        problem = card.problem
        if settings.chat_template is not None:
            capabilities = tuple(word for word in capabilities if word != "tools")
            try:
                if "tools" in settings.chat_template.read_text("utf-8"):
                    capabilities = (*capabilities, "tools")
            except (OSError, UnicodeDecodeError):
                problem = problem or f"its chat template {settings.chat_template.name} cannot be read"
        return replace(card, context_tokens=context, capabilities=capabilities, problem=problem)

    # loading

    async def plan(self, model: ModelId, free_bytes: Mapping[DeviceId, int]) -> LoadPlan:
        """What loading would take."""
        return plan_load(self._file(model), self._wanted(model), free_bytes.get(CPU, 0))

    def _wanted(self, model: ModelId) -> Wanted:
        settings = self._context.settings.for_model(model)
        return Wanted(
            context_tokens=settings.context_tokens,
            pool_tokens=settings.pool_tokens,
            slots=settings.slots,
            cache_type_k=settings.cache_type_k,
            cache_type_v=settings.cache_type_v,
            batch_tokens=self._context.settings.batch_tokens,
            cache_ram_bytes=self._context.settings.cache_ram_mib * _MIB,
        )

    async def load(self, plan: LoadPlan, gone: Callable[[str], None]) -> None:
        """Start a worker and wait until it has loaded the model."""
        settings = self._context.settings
        file = self._file(plan.model)
        options = self._options(plan, file)
        command = await self._command(options)
        child = await self._context.processes.spawn(repr(plan.model), command, self._walls(options, file))
        worker = Worker(
            child, plan, batch_tokens=options.batch_tokens, hang_timeout_s=settings.hang_timeout_s
        )
        self._workers[plan.model] = worker
        try:
            await worker.start(
                size_bytes=file.size_bytes, timeout_s=settings.load_timeout_s, events=self._context.events
            )
        except BaseException:
            del self._workers[plan.model]
            raise
        watch = asyncio.create_task(worker.watch(lambda reason: self._gone(worker, reason, gone)))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    def _gone(self, worker: Worker, reason: str, gone: Callable[[str], None]) -> None:
        if self._workers.get(worker.model) is worker:  # else we ended it ourselves
            del self._workers[worker.model]
            gone(reason)

    async def _command(self, options: WorkerOptions) -> Callable[[Address], Sequence[str]]:
        program = self._context.settings.binary
        if program is None:
            return lambda address: builtin_command(options, address)
        if program not in self._known_flags:
            self._known_flags[program] = await known_flags(self._context.processes, program)
        known = self._known_flags[program]
        return lambda address: program_command(options, address, program, known)

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

    def _walls(self, options: WorkerOptions, file: ModelFile) -> Walls:
        program = self._context.settings.binary
        if program is None:
            worker = Path(__file__).with_name("worker.py")
            programs = [Path(sys.prefix), Path(sys.base_prefix), worker, *_packages()]
        else:
            programs = [program, program.resolve().parent, program.resolve().parent.parent / "lib"]
            if _is_script(program):  # which needs its interpreter too
                programs += [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[3]]
        files = [*file.parts, file.path.resolve(), *options.lora]
        files += [path for path in (options.mmproj, options.chat_template) if path is not None]
        return Walls(read=(*programs, *files, options.unwritable), environment=worker_environment())

    async def unload(self, model: ModelId) -> None:
        """End the worker."""
        worker = self._workers.pop(model, None)
        if worker is not None:
            await worker.child.stop()

    def memory_bytes(self, model: ModelId) -> int:
        """Resident bytes of the worker."""
        worker = self._workers.get(model)
        return worker.child.rss_bytes if worker else 0

    def worker(self, model: ModelId) -> Worker | None:
        """The running worker of a model, if there is one."""
        return self._workers.get(model)

    def _running(self, model: ModelId) -> Worker:
        worker = self._workers.get(model)
        if worker is None:
            raise EngineGone(f"The worker of {model!r} has ended.", reached=False)
        return worker

    def _file(self, model: ModelId) -> ModelFile:
        file = self.catalog.find(model)
        if file is None:
            raise LoadFailed(f"The file of {model!r} is gone.", fix="Put it back, or choose another model.")
        return file

    # answers

    def chat(self, run: Run) -> ChatStream:
        """Begin an answer."""
        card, request = _of(run), run.request

        def worker() -> Worker:
            return self._running(card.id)

        if isinstance(request, GenerateRequest):
            biased = [int(name) for name in request.parameters.get("logit_bias") or () if name.isdigit()]
            self._check_ids(card.id, biased, "logit_bias")
        if isinstance(request, ChatRequest):
            return chat_stream(request, card, worker)
        if isinstance(request, CompletionRequest):
            if not isinstance(request.prompt, str):
                self._check_ids(card.id, request.prompt, "prompt")
            return completion_stream(request, card, worker)
        raise TypeError(f"{type(request).__name__} is not a request for text")

    async def embed(self, run: Run) -> Sequence[Embedding]:
        """A vector for each input, one at a time, so that leaving stops the rest."""
        card, request = _of(run), cast(EmbeddingRequest, run.request)
        if "embedding" not in card.capabilities:
            raise UnsupportedParameter(
                f"{card.id!r} is a chat model and makes no embeddings.",
                fix=f'Choose an embedding model, or set llamacpp.models."{card.id}".embeddings to mean, cls or last.',
                param="model",
            )
        for given in request.inputs:
            if not isinstance(given, str):
                self._check_ids(card.id, given, "input")
        worker = self._running(card.id)
        vectors = []
        async with worker.working():
            for text in request.inputs:
                asked = {"input": text, "encoding_format": "base64"}
                answer = await ask_json(worker, "/v1/embeddings", asked, timeout_s=600)
                worker.sign()
                raw = base64.b64decode(answer["data"][0]["embedding"])
                vector = struct.unpack(f"<{len(raw) // 4}f", raw)
                vectors.append(Embedding(vector, answer["usage"]["prompt_tokens"]))
        return vectors

    # tokens

    async def count_tokens(self, run: Run) -> int:
        """Tokens of the prompt that the model would read."""
        card, request = _of(run), run.request
        worker = self._running(card.id)
        if isinstance(request, CompletionRequest):
            if not isinstance(request.prompt, str):
                return len(request.prompt)
            return len((await self.tokenize(worker.model, request.prompt, special=True, pieces=False)).ids)
        assert isinstance(request, ChatRequest)
        asked = template_input(request, card)
        count: int = (await ask_json(worker, "/v1/chat/completions/input_tokens", asked))["input_tokens"]
        return count

    async def tokenize(self, model: ModelId, text: str, *, special: bool, pieces: bool) -> Tokens:
        """Token ids of a text."""
        asked = {"content": text, "add_special": special, "parse_special": True, "with_pieces": pieces}
        tokens = (await ask_json(self._running(model), "/tokenize", asked))["tokens"]
        if not pieces:
            return Tokens(tokens)
        return Tokens([token["id"] for token in tokens], [token["piece"] for token in tokens])

    async def detokenize(self, model: ModelId, ids: Sequence[int]) -> str:
        """The text of token ids."""
        self._check_ids(model, ids, "tokens")
        return await detokenized(self._running(model), ids)

    def _check_ids(self, model: ModelId, ids: Sequence[int], param: str) -> None:
        header = self._file(model).header
        known = header.vocabulary_tokens if header else 0
        for token in ids if known else ():
            if not 0 <= token < known:
                raise BadRequest(
                    f"{param}: {model!r} has the tokens 0 to {known - 1}, but not {token}.",
                    fix="See /v1/tokenize.",
                    param=param,
                )

    async def apply_template(self, run: Run) -> str:
        """The prompt that the chat template makes of the run's messages."""
        card, request = _of(run), run.request
        assert isinstance(request, ChatRequest)
        asked = template_input(request, card)
        prompt: str = (await ask_json(self._running(card.id), "/apply-template", asked))["prompt"]
        return prompt


def _packages() -> list[Path]:
    """Where llama.cpp is installed: not always in this environment (`pip --user`, one that sees another's packages)."""
    found = importlib.util.find_spec("xllamacpp")
    return [Path(found.origin).parents[1]] if found is not None and found.origin else []


def _is_script(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) == b"#!"


def _of(run: Run) -> ModelCard:
    assert run.model is not None, "the pipeline names the model before it asks an engine"
    return run.model
