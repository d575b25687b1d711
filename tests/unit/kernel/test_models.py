"""Engines of extensions: whose model is whose, loading and unloading, and what a stage hears of the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import pytest

from allod.gateway.routes.health import build
from allod.sdk.chat import Caller, ChatRequest, Purpose, Run
from allod.sdk.engine import CPU, DeviceId, Engine, LoadPlan, ModelCard, ModelId
from allod.sdk.errors import BadRequest, EngineFailed, LoadFailed
from allod.sdk.extension import Extension
from allod.sdk.stage import Ending, Phase, Stage
from allod.sdk.stream import ChatEvent, ChoiceFinished, TextDelta, Usage
from allod.testing.house import point, standing
from tests.unit.kernel.guests import SECRET, manifest


class Stream:
    wire: Literal["openai.chat"] | None = None

    def __init__(self, word: str) -> None:
        self.word = word
        self.usage: Usage | None = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError
        yield b""

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        yield TextDelta(0, self.word)
        if self.word == "broken":
            raise EngineFailed("The engine broke.")
        yield ChoiceFinished(0, "stop")
        self.usage = Usage(3, 1)
        yield self.usage


class LendingEngine:
    """A LoadableEngine; the model `stuck` cannot be loaded."""

    name = "lending"

    def __init__(self) -> None:
        self.diary: list[str] = []

    async def models(self) -> Sequence[ModelCard]:
        return [
            ModelCard(ModelId(name), self.name, name, 1000, 10, is_local=name != "far")
            for name in ("small", "stuck", "far")
        ]

    def chat(self, run: Run) -> Stream:
        assert isinstance(run.request, ChatRequest)
        return Stream(run.request.last_user_text())

    async def plan(self, model: ModelId, free_bytes: Mapping[DeviceId, int], purpose: Purpose) -> LoadPlan:
        return LoadPlan(
            model, {CPU: 10}, 1000, pool_tokens=1000, slots=1, purpose=purpose, shared_bytes={CPU: 4}
        )

    async def load(self, plan: LoadPlan, gone: Callable[[str], None]) -> None:
        self.diary.append(_said("load", plan.model, plan.purpose))
        if plan.model == "stuck":
            raise RuntimeError(SECRET)

    async def unload(self, model: ModelId, purpose: Purpose) -> None:
        self.diary.append(_said("unload", model, purpose))

    def memory_bytes(self, model: ModelId, purpose: Purpose) -> int:
        return 10


def _said(deed: str, model: str, purpose: Purpose) -> str:
    return f"{deed} {model}" + (" in private" if purpose == "private" else "")


class SecondEngine:
    """Has a model that another has too."""

    name = "second"

    async def models(self) -> Sequence[ModelCard]:
        return [ModelCard(ModelId(name), self.name, name, 1000, 10) for name in ("Small", "own")]

    def chat(self, run: Run) -> Stream:
        return Stream("second")


class Listen(Stage):
    name = "listen"
    phase = Phase.COMPOSE

    def __init__(self) -> None:
        self.endings: list[Ending] = []

    async def after(self, run: Run, ending: Ending) -> None:
        self.endings.append(ending)


class Lending(Extension[Any]):
    manifest = manifest("lending")

    async def start(self) -> None:
        self.engine = LendingEngine()
        self.stage = Listen()

    def engines(self) -> Sequence[Engine]:
        return [self.engine]

    def stages(self) -> Sequence[Stage]:
        return [self.stage]


class Second(Extension[Any]):
    manifest = manifest("second", after=("lending",))

    def engines(self) -> Sequence[Engine]:
        return [SecondEngine()]


LENDING = point("lending", f"{__name__}:Lending")
SECOND = point("second", f"{__name__}:Second")


async def answer(house: Any, model: str, text: str) -> str:
    request = ChatRequest(model=model, messages=[{"role": "user", "content": text}])
    opened = await house.pipeline.open(Run(request, Caller(), "/test"))
    async with aclosing(opened.events()) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


async def test_a_loadable_engine_of_an_extension_is_loaded_and_unloaded(tmp_path: Path) -> None:
    async with standing(tmp_path, [LENDING]) as house:
        extension: Any = house.host.get("lending").extension
        assert await answer(house, "small", "hello") == "hello"
        assert (house.models.state(ModelId("small")), extension.engine.diary) == ("ready", ["load small"])
        with pytest.raises(LoadFailed) as failed:
            await answer(house, "stuck", "hello")
        assert SECRET not in failed.value.message
        assert await answer(house, "small", "again") == "again"
        await house.models.unload(ModelId("small"))
        await answer(house, "small", "back")
        await house.host.disable("lending")
        assert extension.engine.diary[-3:] == ["unload small", "load small", "unload small"]


async def test_a_private_chat_of_an_extension_has_a_worker_that_can_be_ended_alone(tmp_path: Path) -> None:
    async with standing(tmp_path, [LENDING]) as house:
        extension: Any = house.host.get("lending").extension
        assert await answer(house, "small", "hello") == "hello"
        request = ChatRequest(model="small", messages=[{"role": "user", "content": "hush"}])
        opened = await extension.context.chat.open(request, purpose="private")
        async with aclosing(opened.events()) as events:
            assert "hush" in [event.text async for event in events if isinstance(event, TextDelta)]
        models = extension.context.models
        await models.unload(ModelId("small"), "private")
        assert extension.engine.diary == ["load small", "load small in private", "unload small in private"]
        assert (models.state("small"), models.state("small", "private")) == ("ready", "stopped")


async def test_an_engine_that_does_not_count_says_so(tmp_path: Path) -> None:
    async with standing(tmp_path, [LENDING]) as house:
        request = ChatRequest(model="small", messages=[])
        for asked in (house.models.count_tokens, house.models.apply_template):
            with pytest.raises(BadRequest, match="'small' cannot be asked for its tokens"):
                await asked(request)


async def test_the_memory_of_a_model_is_that_of_its_workers_with_what_they_share_once(tmp_path: Path) -> None:
    async with standing(tmp_path, [LENDING]) as house:
        purposes: tuple[Purpose, ...] = ("chat", "private")
        for purpose in purposes:
            request = ChatRequest(model="small", messages=[{"role": "user", "content": "hello"}])
            opened = await house.pipeline.open(Run(request, Caller(), "/test", purpose=purpose))
            async with aclosing(opened.events()) as events:
                assert [event async for event in events]
        routes: list[Any] = build(house.models, house.metrics).routes
        (numbers,) = [route.endpoint for route in routes if route.path == "/metrics"]
        shown = (await numbers()).body.decode().splitlines()
        # 10 and 10, less the 4 that both have
        assert 'allod_model_memory_bytes{model="small"} 16.0' in shown


async def test_the_first_engine_to_list_a_name_owns_it_and_the_other_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing(tmp_path, [SECOND, LENDING]) as house:
        for _ in range(2):
            cards = {card.id: card for card in await house.models.cards()}
        assert {id: card.engine for id, card in cards.items()} == {
            "small": "lending",
            "stuck": "lending",
            "far": "lending",
            "own": "second",
        }
        assert [id for id, card in cards.items() if not card.is_local] == ["far"]
        said = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
        assert said == [
            "the model Small of the engine second is left out: the engine lending has one of that name"
        ]


async def test_a_stage_hears_how_each_run_ended(tmp_path: Path) -> None:
    async with standing(tmp_path, [LENDING]) as house:
        extension: Any = house.host.get("lending").extension
        await answer(house, "small", "hello")
        with pytest.raises(EngineFailed):
            await answer(house, "small", "broken")
        request = ChatRequest(model="small", messages=[{"role": "user", "content": "left"}])
        opened = await house.pipeline.open(Run(request, Caller(), "/test"))
        async with aclosing(opened.events()) as events:
            assert isinstance(await anext(events), TextDelta)
        endings = extension.stage.endings
        assert [(each.outcome, each.usage) for each in endings] == [
            ("ok", Usage(3, 1)),
            ("engine_failed", None),
            ("cancelled", None),
        ]
        assert all(0 <= each.duration_s < 60 for each in endings)
