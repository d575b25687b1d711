"""The host: good extensions run, each kind of bad one is left out with its reason and next step, and the rest runs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from allod.kernel import custody, watchdog
from allod.kernel import host as host_module
from allod.kernel import house as house_module
from allod.kernel.installed import Entry, in_order
from allod.sdk.chat import Caller, ChatRequest, Run
from allod.sdk.errors import BadRequest, Conflict, ExtensionFailed, NotFound, ServiceMissing
from allod.sdk.events import ExtensionStateChanged, ModelStateChanged, SettingsChanged, StageRemoved
from allod.sdk.stage import Ending
from allod.testing.house import gateway_on, point, standing
from tests.unit.gateway.asgi import ask
from tests.unit.kernel import guests

GUESTS = "tests.unit.kernel.guests"


def guest(kind: Any, name: str = "") -> Any:
    return point(name or kind.manifest.name, f"{GUESTS}:{kind.__name__}")


GOOD = guest(guests.Good)


def run() -> Run:
    return Run(ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}]), Caller(), "/test")


async def test_a_good_one_contributes_everything(tmp_path: Path) -> None:
    async with standing(tmp_path, [GOOD]) as house:
        (entry,) = house.host.entries()
        assert (entry.state, entry.reason) == ("active", "")
        good = guests.Good.instances[-1]
        await house.stages.before(run())
        assert good.stage.seen == ["/test"]
        assert list(house.toolbox.all()) == ["good_lookup"]
        assert house.services.get(guests.Greeter).greet() == "hello"
        job = await house.jobs.start("good", "count_up", {"to": 5})
        async for status in house.jobs.watch(job):
            last = status
        assert (last.state, last.result) == ("done", {"counted": 5})
        house.events.of("test").publish(ModelStateChanged("m", "ready"))
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert ModelStateChanged("m", "ready") in good.heard
        gateway = await gateway_on(house)
        answer = await ask(gateway, "GET", "/api/good/size", x_api_key=house.keys.create_own())
        assert answer.json == {"size": 1}


async def test_what_others_need_starts_first_and_stops_last(tmp_path: Path) -> None:
    points = [guest(guests.After), GOOD, guest(guests.Needing)]
    async with standing(tmp_path, points) as house:
        assert [entry.name for entry in house.host.entries()] == ["good", "aaa", "needing"]
        assert {entry.state for entry in house.host.entries()} == {"active"}


def test_a_circle_is_no_endless_way() -> None:
    entries = [Entry(name, point(name, "x:y"), needs=needs) for name, needs in (("a", ("b",)), ("b", ("a",)))]
    assert {entry.name for entry in in_order(entries)} == {"a", "b"}


BAD = [
    (point("gone", "no.such.module:X"), "failed", "cannot be imported: ModuleNotFoundError"),
    (point("nothing", f"{GUESTS}:NoSuchClass"), "failed", "cannot be imported: AttributeError"),
    (point("text", f"{GUESTS}:SECRET"), "refused", "is no Extension"),
    (guest(guests.NoManifest, "no_manifest"), "refused", "has no manifest"),
    (guest(guests.OldContract), "refused", "version 0 of the contract"),
    (guest(guests.Reserved), "refused", "belongs to Allod itself"),
    (guest(guests.OtherName, "mine"), "refused", "calls it 'other'"),
    (guest(guests.NeedingNobody), "refused", "needs 'absent'"),
    (guest(guests.StartRaises), "failed", "did not start: RuntimeError"),
    (guest(guests.StartHangs), "failed", "did not start within"),
    (guest(guests.ContributionRaises), "failed", "contributes is not in order: RuntimeError"),
    (guest(guests.Mistyped), "failed", "which is no Tool"),
    (guest(guests.MistypedStage), "failed", "is not `async def`"),
    (guest(guests.MistypedService), "failed", "is no Greeter"),
    (guest(guests.RouterRaises), "failed", "routes are not in order: RuntimeError"),
    (guest(guests.RouterMistyped), "failed", "not an APIRouter"),
    (guest(guests.WrongSettings), "failed", "size"),
    (guest(guests.MigrationRaises), "failed", "Migration 1"),
    (guest(guests.Thief), "failed", "not its own"),
    (point("exits", "tests.unit.kernel.exits:Exits"), "failed", "end the whole program"),
    (guest(guests.StartExits), "failed", "end the whole program"),
    (guest(guests.StartCancels), "failed", "cancelled itself"),
    (guest(guests.StartHoldsOn), "failed", "did not start within"),
    (guest(guests.SyncHandler), "failed", "is not `async def`"),
    (guest(guests.Quotes), "failed", "ValidationError at"),
]


@pytest.mark.parametrize(("bad", "state", "reason"), BAD, ids=lambda value: getattr(value, "name", None))
async def test_a_bad_one_is_left_out_and_the_rest_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bad: Any,
    state: str,
    reason: str,
) -> None:
    monkeypatch.setattr(host_module, "START_S", 0.2)
    async with standing(tmp_path, [bad, GOOD], settings={"wrong_settings": {"size": "large"}}) as house:
        entry = house.host.get(bad.name)
        assert entry.state == state
        assert reason in entry.reason
        assert entry.fix
        assert entry.extension is None
        assert house.host.get("good").state == "active"
        if bad.name != "start_holds_on":
            assert custody.tasks_of(bad.name) == []
        said = [entry.reason, *(record.getMessage() for record in caplog.records)]
        assert not [line for line in said if guests.SECRET in line]
        # each place names it: the log, the doctor, the API
        assert any(bad.name in record.getMessage() for record in caplog.records)
        (check,) = [check for check in await house.host.checks() if check.name == f"extension {bad.name}"]
        assert (check.status, check.detail, check.fix) == ("fail", entry.reason, entry.fix)
        gateway = await gateway_on(house)
        listed = (await ask(gateway, "GET", "/api/extensions", x_api_key=house.keys.create_own())).json[
            "extensions"
        ]
        (row,) = [row for row in listed if row["name"] == bad.name]
        assert (row["state"], row["reason"], row["fix"]) == (entry.state, entry.reason, entry.fix)
        asked = await ask(gateway, "GET", f"/api/{bad.name}/x", x_api_key=house.keys.create_own())
        assert asked.status == 404


async def test_an_engine_that_cannot_list_its_models_takes_no_other_along(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.BadModels), GOOD]) as house:
        assert await house.models.cards() == []
        assert house.host.get("bad_models").state == "active"


async def test_a_restart_keeps_the_order_of_a_fresh_start(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.After), GOOD, guest(guests.BadStages)]) as house:
        before = [entry.name for entry in house.host.entries()]
        stages = [each.stage.name for each in house.stages.all]
        await house.host.restart("good")
        assert [entry.name for entry in house.host.entries()] == before
        assert [each.stage.name for each in house.stages.all] == stages


async def test_a_tool_that_gives_no_text_fails_alone(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.ToolOf, "goods")]) as house:
        one = run()
        one.tools = ("goods_b_lookup",)
        one.caller = Caller("me", frozenset({"admin"}))
        call = {"id": "1", "function": {"name": "goods_b_lookup", "arguments": "{}"}}
        assert [message["content"] for message in await house.toolbox.answer(one, [call])] == [
            "The tool failed."
        ]


async def test_one_that_hangs_takes_the_time_it_is_given_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_module.START_S == 10
    monkeypatch.setattr(host_module, "START_S", 0.1)
    async with asyncio.timeout(5):
        async with standing(tmp_path, [guest(guests.StartHangs), GOOD]) as house:
            assert house.host.get("start_hangs").state == "failed"


async def test_one_that_does_not_stop_in_order_stops_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing(tmp_path, [guest(guests.StopRaises)]) as house:
        await house.host.disable("stop_raises")
        assert house.host.get("stop_raises").state == "disabled"
    assert "stop_raises did not stop in order" in caplog.text


async def test_a_failed_migration_leaves_no_table(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.MigrationRaises)]) as house:
        tables = await house.database.read(
            lambda c: c.exec_driver_sql("SELECT name FROM sqlite_schema").scalars().all()
        )
        assert not [name for name in tables if name.startswith("migration_raises")]


async def test_one_that_holds_everything_up_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog.Watchdog.__init__, "__defaults__", (0.1,))
    monkeypatch.setattr(watchdog, "_BEAT_S", 0.05)
    async with standing(tmp_path, [guest(guests.Slow)]) as house:
        assert house.host.get("slow").state == "active"
    said = [record.getMessage() for record in caplog.records if record.name == "allod.watchdog"]
    assert any("the extension slow has held everything up" in line and "guests.py" in line for line in said)


# routes


async def test_a_mistake_in_a_route_names_the_extension_and_nothing_of_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing(tmp_path, [GOOD]) as house:
        gateway = await gateway_on(house)
        key = house.keys.create_own()
        answer = await ask(gateway, "GET", "/api/good/mistake", x_api_key=key)
        assert (answer.starts, answer.status, answer.json["code"]) == (1, 500, "extension_failed")
        assert "'good'" in answer.json["detail"]
        assert "allod extensions disable good" in answer.json["fix"]
        assert guests.SECRET not in caplog.text
        assert guests.SECRET.encode() not in answer.body
        refusal = await ask(gateway, "GET", "/api/good/refusal", x_api_key=key)
        assert (refusal.status, refusal.json["fix"]) == (400, "Ask otherwise.")


# stages


async def test_a_stage_that_may_be_skipped_is_out_after_five_failures_in_a_row(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.BadStages)]) as house:
        removed: list[StageRemoved] = []

        async def hear(event: StageRemoved) -> None:
            removed.append(event)

        house.events.of("test").subscribe(StageRemoved, hear)
        (extension,) = house.host.active()
        stage = extension.stage  # type: ignore[attr-defined]
        for _ in range(4):
            one = run()
            await house.stages.before(one)
            assert {"stage": "skipped", "skipped": True} in one.notes
        stage.fails = False
        await house.stages.before(run())  # once well: the count begins anew
        stage.fails = True
        for _ in range(5):
            await house.stages.before(run())
        assert stage.calls == 10
        await house.stages.before(run())
        assert stage.calls == 10
        await asyncio.sleep(0.01)
        assert removed == [StageRemoved("bad_stages", "skipped")]
        gateway = await gateway_on(house)
        row = (
            await ask(gateway, "GET", "/api/extensions/bad_stages", x_api_key=house.keys.create_own())
        ).json
        assert (row["state"], row["stages_removed"]) == ("active", ["skipped"])
        await house.host.restart("bad_stages")
        assert [each.stage.name for each in house.stages.all] == ["after", "skipped"]


async def test_a_stage_that_must_not_be_skipped_refuses_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with standing(tmp_path, [guest(guests.Refuser)]) as house:
        with pytest.raises(ExtensionFailed, match="refusing") as refused:
            await house.stages.before(run())
        assert guests.SECRET not in refused.value.message


async def test_a_failure_after_a_run_changes_nothing(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.BadStages)]) as house:
        await house.stages.after(house.stages.all, run(), Ending("ok", 0.1))


# events


async def test_a_handler_that_blocks_only_fills_its_own_queue(tmp_path: Path) -> None:
    async with standing(tmp_path, [guest(guests.Blocking), GOOD]) as house:
        events = house.events.of("test")
        heard = guests.Good.instances[-1].heard
        for number in range(1100):
            events.publish(ModelStateChanged("m", "ready"))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            while len(heard) < 1100:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await house.host.disable("blocking")


# on and off


async def test_switched_off_is_remembered_and_switched_on_again(tmp_path: Path) -> None:
    points = [GOOD, guest(guests.Needing)]
    async with standing(tmp_path, points) as house:
        states: list[tuple[str, str]] = []

        async def hear(event: ExtensionStateChanged) -> None:
            states.append((event.extension, event.state))

        house.events.of("test").subscribe(ExtensionStateChanged, hear)
        await house.host.disable("good")
        assert [(e.name, e.state) for e in house.host.entries()] == [
            ("good", "disabled"),
            ("needing", "stopped"),
        ]
        assert "good" in house.host.get("needing").reason
        assert house.stages.all == ()
        assert house.toolbox.all() == {}
        with pytest.raises(ServiceMissing):
            house.services.get(guests.Greeter)
        with pytest.raises(Conflict):
            await house.host.restart("good")
        await asyncio.sleep(0.01)
        assert states == [("needing", "stopped"), ("good", "disabled")]
    async with standing(tmp_path, points) as house:
        assert house.host.get("good").state == "disabled"
        assert house.host.get("needing").state == "refused"
        await house.host.enable("good")
        assert house.host.get("good").state == "active"
        assert house.host.get("needing").state == "active"  # it had waited for it


async def test_its_routes_come_and_go_with_it(tmp_path: Path) -> None:
    async with standing(tmp_path, [GOOD]) as house:
        gateway = await gateway_on(house)
        key = house.keys.create_own()
        await house.host.disable("good")
        gone = await ask(gateway, "GET", "/api/good/size", x_api_key=key)
        assert (gone.status, gone.json["fix"]) == (404, "allod extensions enable good")
        await house.host.enable("good")
        assert (await ask(gateway, "GET", "/api/good/size", x_api_key=key)).status == 200


async def test_who_is_in_a_route_comes_out_before_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house_module, "_GRACE_S", 1)
    async with standing(tmp_path, [GOOD]) as house:
        gateway, key = await gateway_on(house), house.keys.create_own()
        slow = asyncio.create_task(ask(gateway, "GET", "/api/good/slow", x_api_key=key))
        await asyncio.sleep(0.05)
        await house.host.restart("good")
        assert (await slow).json == {"was_stopped": False}
        endless = asyncio.create_task(ask(gateway, "GET", "/api/good/endless", x_api_key=key))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await house.host.disable("good")
            await asyncio.wait([endless])
        assert house.host.get("good").left_behind == ()


async def test_one_that_was_installed_just_now_is_found(tmp_path: Path) -> None:
    installed = [GOOD]
    async with standing(tmp_path, lambda: installed) as house:
        with pytest.raises(NotFound):
            await house.host.enable("needing")
        installed.append(guest(guests.Needing))
        assert (await house.host.enable("needing")).state == "active"


async def test_the_safe_mode_leaves_all_others_out(tmp_path: Path) -> None:
    async with standing(tmp_path, [GOOD], builtin_only=True) as house:
        entry = house.host.get("good")
        assert (entry.state, entry.fix) == ("refused", "Start the server without --builtin-only.")


async def test_what_it_left_behind_is_ended_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing(tmp_path, [guest(guests.Leaky)]) as house:
        (extension,) = house.host.active()
        task, child = extension.task, extension.child  # type: ignore[attr-defined]
        assert child.is_alive
        await house.host.disable("leaky")
        assert task.cancelled()
        assert not child.is_alive
        assert "the task forgotten" in caplog.text
        assert "the process sleeper" in caplog.text
        assert custody.tasks_of("leaky") == []


async def test_a_hot_restart_is_a_new_object_on_the_same_tables(tmp_path: Path) -> None:
    async with standing(tmp_path, [GOOD]) as house:
        first = guests.Good.instances[-1]
        await house.host.restart("good")
        second = guests.Good.instances[-1]
        assert second is not first
        count = await second.context.store.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM good__things").scalar()
        )
        assert count == 2


# settings


async def test_a_changed_setting_is_told_and_kept(tmp_path: Path) -> None:
    async with standing(tmp_path, [GOOD]) as house:
        changes: list[SettingsChanged] = []

        async def hear(event: SettingsChanged) -> None:
            changes.append(event)

        house.events.of("test").subscribe(SettingsChanged, hear)
        good = guests.Good.instances[-1]
        await house.change_settings("good", {"size": 7})
        assert good.context.settings.size == 7
        assert [before.size for before in good.befores] == [1]
        with pytest.raises(BadRequest, match="greater than or equal to 0") as refused:
            await house.change_settings("good", {"size": -1})
        assert refused.value.param == "size"
        assert good.context.settings.size == 7
        await asyncio.sleep(0.01)
        assert changes == [SettingsChanged("good", ("size",))]
    async with standing(tmp_path, [GOOD]) as house:
        assert guests.Good.instances[-1].context.settings.size == 7
        assert house.settings.describe("good")["sources"] == {"size": "user"}
        await house.reset_setting("good", "size")
        assert guests.Good.instances[-1].context.settings.size == 1
