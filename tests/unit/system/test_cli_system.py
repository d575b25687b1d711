"""`allod system` against a real server with the extension's routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from allod.cli.failures import Exit, Failure
from allod.cli.system import system
from allod.extensions.system.extension import System
from allod.kernel.storage import Database, OwnStore
from allod.sdk.extension import NoSettings
from tests.unit.system.asked import OwnContext, application, serving


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.gguf").write_bytes(bytes(2000))
    database = Database(tmp_path / "allod.db", bytes(range(32)))
    context = OwnContext(NoSettings(), tmp_path, OwnStore(database, "system"))
    with serving(application(System(cast(Any, context)))) as address:
        yield address


def said(*arguments: str) -> str:
    result = CliRunner().invoke(system, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_machine_is_shown(url: str, tmp_path: Path) -> None:
    shown = said("--url", url)
    assert version("allod") in shown.splitlines()[0]
    assert str(tmp_path) in shown
    assert "models 2.0 kB" in shown
    assert "SQLite 3." in shown
    found = json.loads(said("--url", url, "--json"))
    assert set(found) == {"machine", "versions", "disk"}
    assert found["disk"]["bytes_by_room"]["models"] == 2000


def test_the_licences_are_listed(url: str) -> None:
    lines = said("licences", "--url", url).splitlines()
    assert lines[0].split() == ["PACKAGE", "VERSION", "LICENCE", "HOMEPAGE"]
    assert ["fastapi", version("fastapi"), "MIT"] in [line.split()[:3] for line in lines]
    found = json.loads(said("--json", "--url", url, "licences"))
    assert len(found["packages"]) == len(lines) - 1


def test_the_texts_of_one_are_shown(url: str) -> None:
    shown = said("licences", "sqlcipher3", "--url", url)
    assert shown.startswith(f"sqlcipher3 {version('sqlcipher3')} · Zlib · https://")
    assert "--- LICENSE ---" in shown
    assert "provided 'as-is'" in shown
    assert json.loads(said("licences", "sqlcipher3", "--json", "--url", url))["texts"][0]["file"] == "LICENSE"


def test_a_package_that_is_not_there_is_told(url: str) -> None:
    with pytest.raises(Failure) as caught:
        said("licences", "no/such", "--url", url)
    assert caught.value.exit_code == Exit.NOT_FOUND
