"""The engine: lists GGUF models, loads each into a worker of its own for each purpose, and hands requests to it."""

from __future__ import annotations

import asyncio
import base64
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil

from allod.extensions.llamacpp.asks import chat_stream, completion_stream, shows_images, template_input
from allod.extensions.llamacpp.catalog import Catalog, ModelFile
from allod.extensions.llamacpp.counting import Counters
from allod.extensions.llamacpp.launch import Launcher
from allod.extensions.llamacpp.planner import Wanted, mapped_bytes, plan_load
from allod.extensions.llamacpp.settings import LlamaCppSettings
from allod.extensions.llamacpp.streams import ask_json
from allod.extensions.llamacpp.vocabulary import vocabulary_file
from allod.extensions.llamacpp.workers import Worker
from allod.sdk.chat import ChatRequest, CompletionRequest, EmbeddingRequest, GenerateRequest, Purpose, Run
from allod.sdk.context import Context
from allod.sdk.engine import CPU, DeviceId, Embedding, LoadPlan, ModelCard, ModelId, Tokens
from allod.sdk.errors import BadRequest, EngineGone, LoadFailed, UnsupportedParameter
from allod.sdk.events import ModelLoadProgressed
from allod.sdk.stream import ChatStream

_MIB = 1 << 20
_LONGEST_AUTOMATIC_CONTEXT = 8192


class LlamaCppEngine:
    """llama.cpp, one process for each loaded model and purpose."""

    name = "llamacpp"

    def __init__(self, context: Context[LlamaCppSettings], catalog: Catalog, unwritable: Path) -> None:
        self._context = context
        self._launcher = Launcher(context, unwritable)
        self._workers: dict[tuple[ModelId, Purpose], Worker] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self.counters = Counters(self._start_counter)
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

    async def plan(self, model: ModelId, free_bytes: Mapping[DeviceId, int], purpose: Purpose) -> LoadPlan:
        """What loading would take."""
        return plan_load(self._file(model), self._wanted(model, purpose), free_bytes.get(CPU, 0))

    def _wanted(self, model: ModelId, purpose: Purpose) -> Wanted:
        settings = self._context.settings.for_model(model)
        wanted = Wanted(
            context_tokens=settings.context_tokens,
            pool_tokens=settings.pool_tokens,
            slots=settings.slots,
            cache_type_k=settings.cache_type_k,
            cache_type_v=settings.cache_type_v,
            batch_tokens=self._context.settings.batch_tokens,
            cache_ram_bytes=self._context.settings.cache_ram_mib * _MIB,
            purpose=purpose,
        )
        others = [worker for worker in self._workers.values() if worker.model == model and worker.is_ready]
        if others:
            mapped = mapped_bytes(self._file(model), wanted, others[0].plan, others[0].own_bytes)
            wanted = replace(wanted, most_shared_bytes=mapped)
        return wanted

    async def load(self, plan: LoadPlan, gone: Callable[[str], None]) -> None:
        """Start a worker and wait until it has loaded the model."""
        file = self._file(plan.model)
        worker = await self._launcher.model(plan, file)
        key = (plan.model, plan.purpose)
        self._workers[key] = worker
        events = self._context.events

        def progressed(progress: float) -> None:
            worker.progress = progress
            events.publish(ModelLoadProgressed(plan.model, progress, plan.purpose))

        try:
            await worker.start(
                timeout_s=self._context.settings.load_timeout_s,
                watch=lambda rss_bytes: progressed(min(0.99, rss_bytes / max(1, file.size_bytes))),
            )
        except BaseException:
            del self._workers[key]
            raise
        progressed(1.0)
        worker.own_bytes = _own_bytes(worker.child.pid)
        watch = asyncio.create_task(worker.watch(lambda reason: self._gone(worker, reason, gone)))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    def _gone(self, worker: Worker, reason: str, gone: Callable[[str], None]) -> None:
        key = (worker.model, worker.purpose)
        if self._workers.get(key) is worker:  # else we ended it ourselves
            del self._workers[key]
            gone(reason)

    async def _start_counter(self, file: ModelFile) -> Worker:
        """A worker that counts for a model without loading it."""
        folder = self._context.data_folder / "cache" / "vocabularies"
        vocabulary = await asyncio.to_thread(vocabulary_file, file.path, folder)
        worker = await self._launcher.counter(file, vocabulary)
        try:
            await worker.start(timeout_s=self._context.settings.load_timeout_s)
        except LoadFailed:
            vocabulary.unlink(missing_ok=True)  # should it be damaged, the next one is not
            raise
        return worker

    async def close(self) -> None:
        """End what counts; who has loaded models unloads them."""
        await self.counters.close()

    async def unload(self, model: ModelId, purpose: Purpose) -> None:
        """End the worker, and the one that counted for it."""
        worker = self._workers.pop((model, purpose), None)
        if worker is not None:
            await worker.child.stop()
        await self.counters.let_go(model, purpose)

    def memory_bytes(self, model: ModelId, purpose: Purpose) -> int:
        """Resident bytes of the worker."""
        worker = self._workers.get((model, purpose))
        return worker.child.rss_bytes if worker else 0

    def worker(self, model: ModelId, purpose: Purpose) -> Worker | None:
        """The running worker of a model, if there is one."""
        return self._workers.get((model, purpose))

    def _running(self, model: ModelId, purpose: Purpose) -> Worker:
        worker = self._workers.get((model, purpose))
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
            return self._running(card.id, run.purpose)

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
        worker = self._running(card.id, run.purpose)
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
        if isinstance(request, ChatRequest):
            asked = self._template_input(run, request)
            answer = await self._ask(card.id, run.purpose, "/v1/chat/completions/input_tokens", asked)
            count: int = answer["input_tokens"]
            return count
        assert isinstance(request, CompletionRequest)
        if not isinstance(request.prompt, str):
            return len(request.prompt)
        asked = {"content": request.prompt, "add_special": True, "parse_special": True}
        return len((await self._ask(card.id, run.purpose, "/tokenize", asked))["tokens"])

    async def tokenize(self, model: ModelId, text: str, *, special: bool, pieces: bool) -> Tokens:
        """Token ids of a text."""
        asked = {"content": text, "add_special": special, "parse_special": True, "with_pieces": pieces}
        tokens = (await self._ask(model, "chat", "/tokenize", asked))["tokens"]
        if not pieces:
            return Tokens(tokens)
        return Tokens([token["id"] for token in tokens], [token["piece"] for token in tokens])

    async def detokenize(self, model: ModelId, ids: Sequence[int]) -> str:
        """The text of token ids."""
        self._check_ids(model, ids, "tokens")
        text: str = (await self._ask(model, "chat", "/detokenize", {"tokens": list(ids)}))["content"]
        return text

    async def apply_template(self, run: Run) -> str:
        """The prompt that the chat template makes of the run's messages."""
        card, request = _of(run), run.request
        assert isinstance(request, ChatRequest)
        asked = self._template_input(run, request)
        prompt: str = (await self._ask(card.id, run.purpose, "/apply-template", asked))["prompt"]
        return prompt

    def _template_input(self, run: Run, request: ChatRequest) -> dict[str, Any]:
        card = _of(run)
        if shows_images(request) and self._ready(card.id, run.purpose) is None:
            raise BadRequest(
                f"What an image takes is known only while {card.id!r} is in memory.",
                fix="Load the model, or count the text alone.",
                param="messages",
            )
        return template_input(request, card)

    async def _ask(self, model: ModelId, purpose: Purpose, path: str, body: dict[str, Any]) -> Any:
        """What needs no weights: from the model's worker, which answers in mid-batch too, where there is one."""
        worker = self._ready(model, purpose)
        if worker is not None:
            with suppress(EngineGone):  # unloaded in this moment, which matters nothing
                async with worker.counting:
                    return await ask_json(worker, path, body)
        async with self.counters.lent(self._file(model), purpose) as counter, counter.counting:
            return await ask_json(counter, path, body)

    def _ready(self, model: ModelId, purpose: Purpose) -> Worker | None:
        worker = self._workers.get((model, purpose))
        return worker if worker is not None and worker.is_ready else None

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


def _own_bytes(pid: int) -> int:
    """Resident bytes of a process that no other can share; all, where the system does not say."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def _of(run: Run) -> ModelCard:
    assert run.model is not None, "the pipeline names the model before it asks an engine"
    return run.model
