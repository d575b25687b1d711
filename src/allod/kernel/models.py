"""Which engine has which model, and what the names `default` and `jan` stand for."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence

from allod.kernel import custody
from allod.kernel.faults import is_fault
from allod.kernel.offers import offers
from allod.kernel.scheduler import Scheduler
from allod.sdk.chat import Caller, ChatRequest, Purpose, Run
from allod.sdk.engine import Engine, LoadableEngine, LoadPlan, ModelCard, ModelId, TokenizingEngine
from allod.sdk.errors import BadRequest, LoadFailed, ModelNotFound

DEFAULT_NAMES = ("default", "jan")
_LIST_S = 30
_log = logging.getLogger("allod.models")


async def _listed(engine: Engine) -> Sequence[ModelCard]:
    """The models of one engine; none, and a line in the log, where it does not say within its time."""
    try:
        async with asyncio.timeout(_LIST_S):
            return await engine.models()
    except BaseException as error:
        if not is_fault(error):
            raise
        _log.exception("the engine %s does not list its models", engine.name)
        return ()


class ModelTable:
    """All models of all engines. A name that is not known asks the engines again, so new files are found."""

    def __init__(self, engines: Callable[[], Sequence[Engine]], default: str = "") -> None:
        self._engines = engines
        self.default_name = default
        self._known: dict[str, tuple[ModelCard, Engine]] = {}
        self._said: set[tuple[str, str]] = set()

    async def cards(self) -> list[ModelCard]:
        """All models, as the engines list them now; the first engine to list an id owns it."""
        known: dict[str, tuple[ModelCard, Engine]] = {}
        for engine in self._engines():
            for card in await _listed(engine):
                owner = known.setdefault(card.id.casefold(), (card, engine))[1]
                if owner is not engine:
                    self._say_taken(card.id, engine, owner)
        self._known = known
        return [card for card, _ in known.values()]

    async def find(self, name: str) -> tuple[ModelCard, Engine]:
        """The model of this name and its engine. Raises ModelNotFound, which lists the known ones."""
        wanted = name.casefold()
        if wanted in DEFAULT_NAMES:
            return await self.default()
        found = self._known.get(wanted)
        if found is None:
            await self.cards()
            found = self._known.get(wanted)
        if found is None:
            raise self._unknown(name)
        return found

    def forget(self) -> None:
        """Ask the engines anew: there are others now."""
        self._known = {}

    async def find_usable(self, name: str) -> tuple[ModelCard, Engine]:
        """As find. Raises LoadFailed where something is wrong with the model."""
        card, engine = await self.find(name)
        if card.problem:
            raise LoadFailed(f"{card.id!r} cannot be used: {card.problem}.", fix="Replace its file.")
        return card, engine

    async def default(self) -> tuple[ModelCard, Engine]:
        """The model that `default` and `jan` stand for: the one set, else the first that can chat."""
        if self.default_name:
            return await self.find(self.default_name)
        if not self._known:
            await self.cards()
        for card, engine in self._known.values():
            if "chat" in card.capabilities and not card.problem:
                return card, engine
        raise ModelNotFound(
            "There is no model yet.",
            fix="Put a GGUF file into the data folder's models/, or run `allod models add PATH`.",
        )

    def _say_taken(self, id: str, engine: Engine, owner: Engine) -> None:
        if (id, engine.name) not in self._said:
            self._said.add((id, engine.name))
            _log.warning(
                "the model %s of the engine %s is left out: the engine %s has one of that name",
                id,
                engine.name,
                owner.name,
            )

    def _unknown(self, name: str) -> ModelNotFound:
        names = [card.id for card, _ in self._known.values()]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        known = f"Known models: {', '.join([*DEFAULT_NAMES, *names[:20]])}."
        return ModelNotFound(
            f"There is no model {name[:100]!r}.", fix=f"{hint} {known}".strip(), param="model"
        )


class ModelDesk:
    """The models of all engines and what is in memory, as extensions and the API see them."""

    def __init__(self, table: ModelTable, scheduler: Scheduler) -> None:
        self._table = table
        self._scheduler = scheduler

    async def cards(self) -> Sequence[ModelCard]:
        """All models known."""
        return await self._table.cards()

    async def find(self, name: str) -> ModelCard:
        """The model of this name, also by an alias."""
        return (await self._table.find(name))[0]

    def state(self, model: ModelId, purpose: Purpose = "chat") -> str:
        """The state of a model's worker."""
        return self._scheduler.state(model, purpose)

    async def load(
        self, model: ModelId, keep_alive_s: float | None = None, pin: bool | None = None
    ) -> LoadPlan:
        """Load a model for chats now and wait for it."""
        card, engine = await self._table.find_usable(model)
        if not offers(engine, LoadableEngine):
            raise BadRequest(f"{model!r} is not loaded by this machine.", param="model")
        return await self._scheduler.load(card, engine, keep_alive_s, pin)

    async def unload(self, model: ModelId, purpose: Purpose = "chat") -> None:
        """End a model's worker once its runs have ended."""
        await self._scheduler.unload(model, purpose)

    async def count_tokens(self, request: ChatRequest, purpose: Purpose = "chat") -> int:
        """Tokens of the prompt that the model would read for `request` as it stands. Loads nothing."""
        run, engine = await self._counted(request, purpose)
        with custody.acting(
            ""
        ):  # what the engine begins for it serves others too, and does not end with the asker
            return await engine.count_tokens(run)

    async def apply_template(self, request: ChatRequest, purpose: Purpose = "chat") -> str:
        """The prompt, as text, that the model would read for `request` as it stands. Loads nothing."""
        run, engine = await self._counted(request, purpose)
        with custody.acting(""):
            return await engine.apply_template(run)

    async def _counted(self, request: ChatRequest, purpose: Purpose) -> tuple[Run, TokenizingEngine]:
        card, engine = await self._table.find_usable(request.model)
        return Run(request, Caller(), "tokens", card, purpose), as_tokenizing(engine, request.model)

    def report(self) -> Sequence[Mapping[str, object]]:
        """What was used."""
        return self._scheduler.report()


def as_tokenizing(engine: Engine, name: str) -> TokenizingEngine:
    """`engine`, which runs the model of this name, as one that counts. Raises BadRequest where it does not."""
    if not offers(engine, TokenizingEngine):
        raise BadRequest(f"{name!r} cannot be asked for its tokens.", param="model")
    return engine
