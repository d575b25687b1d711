"""The extension's routes, as a client sees them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest

from allod.extensions.system.extension import System
from allod.kernel.storage import Database, OwnStore
from allod.sdk.extension import NoSettings
from tests.unit.system.asked import Asker, OwnContext


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Asker]:
    database = Database(tmp_path / "allod.db", bytes(range(32)))
    extension = System(cast(Any, OwnContext(NoSettings(), tmp_path, OwnStore(database, "system"))))
    await extension.start()
    yield Asker(extension)
    await extension.stop()
    database.dispose()


async def test_the_machine_is_described(client: Asker, tmp_path: Path) -> None:
    found = (await client.get("")).json
    assert found["allod"] == version("allod")
    assert found["data_folder"] == str(tmp_path)
    assert found["memory_bytes"] > found["available_bytes"] > 0
    assert isinstance(found["gpus"], list)


async def test_the_versions_are_those_that_are_installed(client: Asker) -> None:
    found = (await client.get("/versions")).json
    packages = {each["name"]: each["version"] for each in found["packages"]}
    assert packages["fastapi"] == version("fastapi")
    assert all(packages[name] == version(name) for name in packages)
    libraries = {(each["name"], each["said_by"]): each["version"] for each in found["libraries"]}
    assert libraries["OpenSSL", "Python"] in ssl.OPENSSL_VERSION
    assert libraries["SQLite", "sqlcipher3"].startswith("3.")
    assert libraries["SQLCipher", "sqlcipher3"].startswith("4.")
    assert libraries["OpenSSL", "cryptography"]
    assert version("xllamacpp") in libraries["llama.cpp", "metadata"]


async def test_each_package_has_its_licence(client: Asker) -> None:
    packages = (await client.get("/licences")).json["packages"]
    assert len(packages) > 40
    assert {each["name"] for each in packages if each["licence"] == "unknown"} == set()
    assert all(each["texts"] and each["version"] for each in packages)
    (sqlcipher,) = (each for each in packages if each["name"] == "sqlcipher3")
    assert sqlcipher["licence"] == "Zlib"
    assert "LICENSE" in sqlcipher["said_by"]
    assert sqlcipher["homepage"].startswith("https://")


async def test_one_package_brings_its_texts(client: Asker) -> None:
    found = (await client.get("/licences/SQLCipher3")).json
    assert found["version"] == version("sqlcipher3")
    assert "provided 'as-is'" in found["texts"][0]["text"]
    dual = (await client.get("/licences/cryptography")).json
    assert [each["file"] for each in dual["texts"]] == ["LICENSE", "LICENSE.APACHE", "LICENSE.BSD"]


async def test_a_package_that_allod_does_not_run_on_is_not_found(client: Asker) -> None:
    answer = await client.get("/licences/pytest")
    assert answer.status == 404
    assert answer.json["code"] == "not_found"
    assert answer.json["fix"]


async def test_the_disk_is_measured(client: Asker, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.gguf").write_bytes(bytes(1234))
    found = (await client.get("/disk")).json
    assert found["bytes_by_room"]["models"] == 1234
    assert found["bytes_by_room"]["store"] == found["total_bytes"] - 1234 > 0
    assert found["free_bytes"] > 0
