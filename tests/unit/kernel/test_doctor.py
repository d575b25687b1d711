"""What `allod doctor` says of the machine: in order, or what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from allod.kernel.doctor import Doctor
from allod.kernel.house import House
from allod.kernel.paths import Paths
from allod.kernel.vault import Vault
from allod.sdk.extension import Check
from allod.testing.house import point, standing

LAYERS = ("namespaces", "landlock", "seccomp")


class Examined:
    """A doctor and what it looks at: a real data folder, a shut vault, and no extension but a broken one."""

    def __init__(self, house: House) -> None:
        self.paths = house.paths
        self.processes = house.processes
        self.vault = Vault(house.paths)
        self.doctor = Doctor(
            paths=house.paths,
            urls=["http://localhost:1337"],
            settings=house.settings,
            vault=self.vault,
            processes=house.processes,
            house=lambda: house,
        )

    async def checks(self) -> dict[str, Check]:
        return {check.name: check for check in await self.doctor.examine()}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Examined]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text("[glossery]\nterms = 1\n")
    async with standing(home, [point("broken", "tests.unit.kernel.guests:NoManifest")]) as standing_house:
        yield Examined(standing_house)


async def test_it_says_where_it_answers(house: Examined) -> None:
    assert (await house.checks())["addresses"].detail == "http://localhost:1337"


async def test_settings_that_nobody_reads_are_a_warning(house: Examined) -> None:
    check = (await house.checks())["settings"]
    assert check.status == "warn"
    assert "'glossery'" in check.detail


async def test_without_a_recovery_code_or_passphrase_it_warns(house: Examined, tmp_path: Path) -> None:
    assert "No other machine could open it" in (await house.checks())["store"].detail
    other = Paths(tmp_path / "other")
    other.create()
    house.doctor._vault = Vault(other)
    house.doctor._vault.create("correct horse battery")
    assert (await house.checks())["store"].status == "ok"


async def test_a_data_folder_that_others_may_enter_is_a_warning(house: Examined) -> None:
    assert (await house.checks())["data folder"].status in ("ok", "warn")
    house.paths.data.chmod(0o755)
    check = (await house.checks())["data folder"]
    assert (check.status, check.fix) == ("warn", f"Run: chmod 700 {house.paths.data}")


async def test_an_extension_that_was_left_out_is_a_failure_with_its_next_step(house: Examined) -> None:
    check = (await house.checks())["extension broken"]
    assert (check.status, check.detail) == ("fail", "It has no manifest.")
    assert check.fix


@pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")
async def test_each_wall_is_as_the_kernel_says(house: Examined) -> None:
    report = await house.processes.probe_walls()
    checks = await house.checks()
    for layer in LAYERS:
        assert (checks[f"wall: {layer}"].status == "ok") is bool(report[layer])


@pytest.fixture
def kernel_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes the probe say that these layers are refused, as on a kernel without them."""

    def refuse(*layers: str) -> None:
        report = {layer: None if layer in layers else True for layer in LAYERS}
        said = json.dumps(report | {"why": dict.fromkeys(layers, "Invalid argument")})
        probe = tmp_path / "probe.py"
        probe.write_text(f"print({said!r})")
        monkeypatch.setattr("allod.kernel.processes._JAIL", probe)

    return refuse


@pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")
async def test_one_wall_that_is_refused_is_a_warning(house: Examined, kernel_refuses: Any) -> None:
    kernel_refuses("landlock")
    checks = await house.checks()
    assert [checks[f"wall: {layer}"].status for layer in LAYERS] == ["ok", "warn", "ok"]
    assert "Invalid argument" in checks["wall: landlock"].detail
    assert "The other walls hold" in checks["wall: landlock"].fix


@pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")
async def test_without_any_wall_it_does_not_say_that_others_hold(
    house: Examined, kernel_refuses: Any
) -> None:
    kernel_refuses(*LAYERS)
    for layer in LAYERS:
        check = (await house.checks())[f"wall: {layer}"]
        assert check.status == "fail"
        assert "other walls hold" not in check.fix
        assert "allow_unwalled_workers" in check.fix
