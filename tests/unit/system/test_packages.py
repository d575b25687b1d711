"""What Allod runs on: all of it, nothing else, and each with its licence."""

from __future__ import annotations

from importlib.metadata import Distribution
from pathlib import Path

import pytest

from allod.extensions.system import licences
from allod.extensions.system.packages import Packages, installed_below, required

NONE: frozenset[str] = frozenset()


async def test_every_package_shows_its_licence_and_its_text() -> None:
    found = await Packages().all()
    assert {package.name: package.said_by for package in found if package.licence == licences.UNKNOWN} == {}
    assert [package.name for package in found if not package.said_by] == []
    for package in found:
        for name, file in package.texts.items():
            assert file.read_text("utf-8", "replace").strip(), f"{package.name}: {name}"
    assert [package.name for package in found if not package.texts] == []


async def test_our_own_table_speaks_only_for_packages_that_say_nothing() -> None:
    said_by = {package.name: package.said_by for package in await Packages().all()}
    fields = ("License-Expression", "License", "Classifier")
    assert {name for name, source in said_by.items() if source not in fields} == set(licences._SAID_NOWHERE)


async def test_the_list_goes_all_the_way_down_and_no_further() -> None:
    found = {package.name for package in await Packages().all()}
    assert {"fastapi", "starlette", "anyio", "idna", "cryptography", "cffi", "pycparser"} <= found
    assert not found & {"allod", "pytest", "ruff", "mypy", "openai", "hypothesis"}


async def test_the_list_is_made_once() -> None:
    packages = Packages()
    assert await packages.all() is await packages.all()


@pytest.mark.parametrize("spelled", ["typing_extensions", "Typing.Extensions", "typing-extensions"])
async def test_a_package_is_found_however_its_name_is_spelled(spelled: str) -> None:
    found = await Packages().find(spelled)
    assert found is not None
    assert found.licence == "PSF-2.0"


async def test_a_package_of_the_tools_is_none_of_them() -> None:
    assert await Packages().find("pytest") is None


@pytest.mark.parametrize(
    ("line", "extras", "wanted"),
    [
        ("anyio<5,>=3.6.2", (), [("anyio", NONE)]),
        ("typing_extensions>=4; python_version < '3.13'", (), [("typing-extensions", NONE)]),
        ("uvicorn[standard,Extra_One] (>=0.1)", (), [("uvicorn", frozenset({"standard", "extra-one"}))]),
        ("uvloop>=0.15; sys_platform != 'win32' and extra == 'standard'", (), []),
        ("uvloop>=0.15; sys_platform != 'win32' and extra == 'standard'", ("standard",), [("uvloop", NONE)]),
        ('h2>=3; extra=="HTTP_2"', ("http-2",), [("h2", NONE)]),
        ("zope.interface @ https://example.org/z.zip ; extra == 'z'", ("z",), [("zope-interface", NONE)]),
        ("", (), []),
    ],
)
def test_a_requirement_is_read(
    line: str, extras: tuple[str, ...], wanted: list[tuple[str, frozenset[str]]]
) -> None:
    assert list(required([line], frozenset(extras))) == wanted


def test_what_is_not_installed_is_not_listed() -> None:
    assert installed_below("no-package-of-this-name") == {}


def package(folder: Path, metadata: str, *files: str) -> Distribution:
    """A package that says of itself what is wanted."""
    info = folder / "made-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made\nVersion: 1.0\n{metadata}", "utf-8")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"This is {name}.", "utf-8")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in (*files, "made/LICENSE.gone")), "utf-8")
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\nLicense: other\n", ("MIT", "License-Expression")),
        (
            "License: Apache 2.0\nClassifier: License :: OSI Approved :: BSD License\n",
            ("Apache 2.0", "License"),
        ),
        (
            "License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License\n",
            ("BSD License", "Classifier"),
        ),
        (
            "License: First line\n        second line\nClassifier: License :: Public Domain\n",
            ("Public Domain", "Classifier"),
        ),
        ("License: " + "word " * 50 + "\n", (licences.UNKNOWN, "")),
        ("Classifier: License :: OSI Approved\nClassifier: Topic :: Other\n", (licences.UNKNOWN, "")),
    ],
)
def test_the_first_place_that_names_a_licence_counts(
    tmp_path: Path, metadata: str, licence: tuple[str, str]
) -> None:
    assert licences.licence_of("made", package(tmp_path, metadata).metadata) == licence


@pytest.mark.parametrize(
    ("metadata", "homepage"),
    [
        ("Home-page: https://a.example\nProject-URL: Homepage, https://b.example\n", "https://a.example"),
        ("Home-page: UNKNOWN\nProject-URL: Home Page, https://b.example\n", "https://b.example"),
        (
            "Project-URL: Source Code, https://c.example\nProject-URL: Bug Tracker, https://d.example\n",
            "https://c.example",
        ),
        ("Project-URL: Bug Tracker, https://d.example\n", ""),
    ],
)
def test_a_homepage_is_found(tmp_path: Path, metadata: str, homepage: str) -> None:
    assert licences.homepage_of(package(tmp_path, metadata).metadata) == homepage


def test_the_texts_are_those_that_lie_there(tmp_path: Path) -> None:
    brought = [
        "made-1.0.dist-info/licenses/LICENSE",
        "made-1.0.dist-info/licenses/vendor/x/LICENSE-MIT",
        "made-1.0.dist-info/COPYING.txt",
        "made-1.0.dist-info/entry_points.txt",
        "made/_inner/NOTICE",
        "made/licence.py",
        "made/licensing.txt",
    ]
    found = licences.texts_of(package(tmp_path, "", *brought))
    assert list(found) == ["COPYING.txt", "LICENSE", "made/_inner/NOTICE", "vendor/x/LICENSE-MIT"]
    assert found["LICENSE"].read_text("utf-8") == "This is made-1.0.dist-info/licenses/LICENSE."
