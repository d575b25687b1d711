"""One namespace from three places: the file, the environment, the command line, each over the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from allod.kernel.server_settings import ServerSettings
from allod.kernel.settings import Settings
from allod.sdk.errors import StartFailed
from tests.unit.kernel.database import kernel_database


class Kitchen(BaseModel):
    cooks: int = 1
    menu: list[str] = []
    name: str = "none"
    note: str | None = "closed"
    is_open: bool = False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Kitchen:
    return Settings(file, overrides).load("kitchen", Kitchen)


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert load(file) == Kitchen()


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(default=1, ge=0)
    is_shut: bool = False


async def test_a_value_that_no_longer_fits_takes_no_other_along(tmp_path: Path) -> None:
    with kernel_database(tmp_path) as database:
        row = "INSERT INTO kernel__settings VALUES ('kitchen', ?, ?, 0)"
        for field, value in (("is_shut", "true"), ("gone", "5"), ("size", "-3")):
            await database.write(lambda c, f=field, v=value: c.exec_driver_sql(row, (f, v)))  # type: ignore[misc]
        settings = Settings(tmp_path / "config.toml")
        await settings.attach(database)
        assert settings.load("kitchen", Strict) == Strict(is_shut=True)
        described = settings.describe("kitchen")
        assert set(described["problems"]) == {"gone", "size"}
        assert described["sources"] == {"size": "default", "is_shut": "user"}
        await settings.change("kitchen", {"size": 7})
        await settings.reset("kitchen", "is_shut")
        assert settings.current("kitchen") == Strict(size=7)
        assert settings.describe("kitchen")["problems"] == {}


async def test_the_safe_mode_passes_the_server_s_own_over(tmp_path: Path) -> None:
    with kernel_database(tmp_path) as database:
        settings = Settings(tmp_path / "config.toml")
        settings.load("kitchen", Strict)
        await settings.attach(database)
        await settings.change("kitchen", {"size": 7})
        other = Settings(tmp_path / "config.toml")
        other.load("kitchen", Strict)
        await other.attach(database, without=["kitchen"])
        assert other.current("kitchen") == Strict()


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[kitchen]\ncooks = 2\nname = 'file'\nis_open = true")
    assert load(file) == Kitchen(cooks=2, name="file", is_open=True)
    monkeypatch.setenv("ALLOD_KITCHEN__COOKS", "3")
    monkeypatch.setenv("ALLOD_KITCHEN__NAME", "environment")
    assert load(file) == Kitchen(cooks=3, name="environment", is_open=True)
    assert load(file, {"kitchen": {"cooks": 4}}) == Kitchen(cooks=4, name="environment", is_open=True)


@pytest.mark.parametrize(
    ("variable", "value", "field", "meaning"),
    [
        ("COOKS", "12", "cooks", 12),
        ("IS_OPEN", "true", "is_open", True),
        ("IS_OPEN", "0", "is_open", False),
        ("MENU", '["soup", "bread"]', "menu", ["soup", "bread"]),
        ("NAME", "Café 分析", "name", "Café 分析"),
        ("NAME", '"quoted"', "name", "quoted"),
        ("NAME", "123", "name", "123"),
        ("NAME", "true", "name", "true"),
        ("NOTE", "null", "note", None),
    ],
)
def test_a_variable_is_read_as_what_its_field_is(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, meaning: object
) -> None:
    monkeypatch.setenv(f"ALLOD_KITCHEN__{variable}", value)
    assert getattr(load(file), field) == meaning


def test_other_namespaces_are_none_of_its_business(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOD_CELLAR__COOKS", "9")
    file.write_text("[cellar]\ncooks = 9")
    assert load(file) == Kitchen()


def test_the_port_has_a_short_name_and_its_long_name_wins(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOD_PORT", "1400")
    assert Settings(file).load("server", ServerSettings).port == 1400
    monkeypatch.setenv("ALLOD_SERVER__PORT", "1500")
    assert Settings(file).load("server", ServerSettings).port == 1500


def test_a_wrong_value_names_its_field_and_its_variable_but_not_the_value(file: Path) -> None:
    file.write_text("[kitchen]\ncooks = 'a secret'")
    with pytest.raises(StartFailed) as caught:
        load(file)
    assert "kitchen.cooks" in caught.value.detail
    assert "ALLOD_KITCHEN__COOKS" in caught.value.fix
    assert "a secret" not in caught.value.message


def test_a_wrong_value_deeper_in_names_the_whole_way(file: Path) -> None:
    with pytest.raises(StartFailed, match=r"kitchen\.menu\.1"):
        load(file, {"kitchen": {"menu": ["soup", 7]}})


def test_a_setting_that_does_not_exist_is_named(file: Path) -> None:
    file.write_text("[server]\nprot = 1338")
    with pytest.raises(StartFailed, match=r"server\.prot"):
        Settings(file).load("server", ServerSettings)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("ALLOD_PORT", port)
    with pytest.raises(StartFailed, match=r"server\.port"):
        Settings(file).load("server", ServerSettings)


def test_a_queue_must_have_a_place_or_no_model_could_ever_be_loaded(file: Path) -> None:
    with pytest.raises(StartFailed, match=r"server\.max_waiting"):
        Settings(file, {"server": {"max_waiting": 0}}).load("server", ServerSettings)


@pytest.mark.parametrize("content", [b"[kitchen", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(StartFailed, match=r"config\.toml is not valid TOML"):
        load(file)


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.mkdir()
    with pytest.raises(StartFailed, match=r"config\.toml cannot be read"):
        load(file)


def test_a_namespace_that_is_no_table_is_named(file: Path) -> None:
    file.write_text("kitchen = 5")
    with pytest.raises(StartFailed, match="kitchen"):
        load(file)
