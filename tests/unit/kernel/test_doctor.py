"""What `allod doctor` says of the machine: in order, or what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from allod.kernel.api_keys import ApiKeys
from allod.kernel.doctor import Doctor
from allod.kernel.host import Failed, Host
from allod.kernel.paths import Paths
from allod.kernel.processes import ChildProcesses
from allod.kernel.settings import Settings
from allod.sdk.extension import Check

LAYERS = ("namespaces", "landlock", "seccomp")


class House:
    """A doctor and what it looks at: a real data folder, no extension."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home)
        self.paths.create()
        self.keys = ApiKeys(self.paths.api_keys)
        self.processes = ChildProcesses(self.paths.sockets())
        self.host = Host(Settings(self.paths.config), _no_context)

    async def checks(self) -> dict[str, Check]:
        doctor = Doctor(self.paths, ["http://localhost:1337"], self.keys, self.host, self.processes)
        return {check.name: check for check in await doctor.examine()}


def _no_context(name: str, settings: Any) -> Any:
    raise AssertionError("no extension is started here")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "home")
    yield house
    await house.processes.close()


async def test_it_says_where_it_answers_and_how_many_keys_there_are(house: House) -> None:
    house.keys.create("laptop")
    assert (await house.checks())["addresses"].detail == "http://localhost:1337; 1 API keys"


async def test_a_data_folder_that_others_may_enter_is_a_warning(house: House) -> None:
    assert (await house.checks())["data folder"].status in ("ok", "warn")
    house.paths.data.chmod(0o755)
    check = (await house.checks())["data folder"]
    assert (check.status, check.fix) == ("warn", f"Run: chmod 700 {house.paths.data}")


async def test_an_extension_that_was_left_out_is_a_failure_with_its_next_step(house: House) -> None:
    house.host.failed.append(Failed("broken", "it has a bug", "Update it."))
    check = (await house.checks())["extension broken"]
    assert (check.status, check.detail, check.fix) == ("fail", "it has a bug", "Update it.")


@pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")
async def test_each_wall_is_as_the_kernel_says(house: House) -> None:
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
async def test_one_wall_that_is_refused_is_a_warning(house: House, kernel_refuses: Any) -> None:
    kernel_refuses("landlock")
    checks = await house.checks()
    assert [checks[f"wall: {layer}"].status for layer in LAYERS] == ["ok", "warn", "ok"]
    assert "Invalid argument" in checks["wall: landlock"].detail
    assert "The other walls hold" in checks["wall: landlock"].fix


@pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")
async def test_without_any_wall_it_does_not_say_that_others_hold(house: House, kernel_refuses: Any) -> None:
    kernel_refuses(*LAYERS)
    for layer in LAYERS:
        check = (await house.checks())[f"wall: {layer}"]
        assert check.status == "fail"
        assert "other walls hold" not in check.fix
        assert "allow_unwalled_workers" in check.fix
