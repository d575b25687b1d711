"""Every extension that is installed keeps the contract."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Column, Integer, String

from allod.sdk.extension import Extension, Manifest
from allod.sdk.storage import Migration
from allod.testing import contract

EVERY = pytest.mark.parametrize("point", contract.installed(), ids=lambda point: point.name)


@EVERY
def test_it_enters_under_its_own_name(point: EntryPoint) -> None:
    assert point.load().manifest.name == point.name


@EVERY
def test_its_manifest_and_settings_are_whole(point: EntryPoint) -> None:
    kind = point.load()
    contract.check_manifest(kind)
    contract.check_settings(kind)


@EVERY
async def test_it_starts_stops_and_starts_again(point: EntryPoint, tmp_path: Path) -> None:
    await contract.check_life(point.load(), tmp_path / "home")


@EVERY
async def test_its_tables_come_up_from_each_step_with_their_rows(point: EntryPoint, tmp_path: Path) -> None:
    await contract.check_migrations(point.load(), tmp_path / "steps")


# the suite itself finds what it is there to find


class Choices(BaseModel):
    """Settings."""

    size: int = Field(default=1, title="Size", description="How large.")


class Tidy(Extension[Choices]):
    """Keeps all of it."""

    manifest = Manifest(name="tidy", summary="Keeps the contract.")

    def router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/things")
        async def things() -> dict[str, int]:
            """What there is."""
            return {"size": self.context.settings.size}

        return router


async def test_a_tidy_extension_passes(tmp_path: Path) -> None:
    await contract.check(Tidy, tmp_path)


class Required(BaseModel):
    """Settings."""

    size: int = Field(title="Size", description="How large.")


class Untitled(BaseModel):
    """Settings."""

    size: int = Field(default=1, description="How large.")


class Undescribed(BaseModel):
    """Settings."""

    inner: dict[str, Untitled] = Field(default={}, title="Inner", description="More.")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Required, "tidy.size has no default"),
        (Untitled, "tidy.size has no title"),
        (Undescribed, r"tidy.inner\.\*\.size has no title"),
    ],
)
def test_settings_that_are_not_whole_are_named(settings: type[BaseModel], said: str) -> None:
    class Faulty(Tidy):
        pass

    Faulty.Settings = settings
    with pytest.raises(AssertionError, match=said):
        contract.check_settings(Faulty)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (Manifest(name="chat", summary="Takes a name of others."), "is taken"),
        (Manifest(name="tidy", summary="Of another time.", api=99), "version 99"),
        (Manifest(name="tidy", summary="words"), "no sentence"),
    ],
)
def test_manifests_that_are_wrong_are_named(manifest: Manifest, said: str) -> None:
    class Faulty(Tidy):
        pass

    Faulty.manifest = manifest
    with pytest.raises(AssertionError, match=said):
        contract.check_manifest(Faulty)


class Forgetful(Tidy):
    """Leaves a task behind."""

    async def start(self) -> None:
        self.task: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(60), name="forgotten")


async def test_a_task_left_behind_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the task forgotten"):
        await contract.check_life(Forgetful, tmp_path)


def create(op: Any) -> None:
    op.create_table(
        "tidy__words", Column("id", Integer, primary_key=True), Column("word", String, nullable=False)
    )


def rename(op: Any) -> None:
    with op.batch_alter_table("tidy__words") as words:
        words.alter_column("word", new_column_name="text")
        words.add_column(Column("size", Integer, nullable=False, server_default="0"))


def lose(op: Any) -> None:
    op.execute("DELETE FROM tidy__words")


class Moving(Tidy):
    """Has changed its tables since its first version."""

    steps: ClassVar[tuple[Any, ...]] = (create, rename)

    def migrations(self) -> Sequence[Migration]:
        return [Migration(number, "a step", up) for number, up in enumerate(self.steps, 1)]


class Losing(Moving):
    """Loses what was there."""

    steps = (create, lose)


async def test_tables_that_move_keep_their_rows(tmp_path: Path) -> None:
    await contract.check_migrations(Moving, tmp_path / "moving")


async def test_lost_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"step 2 loses rows of \['tidy__words'\]"):
        await contract.check_migrations(Losing, tmp_path / "losing")


class Wide(Tidy):
    """Wants hosts that are none."""

    manifest = Manifest(name="tidy", summary="Keeps the contract.", egress=("https://example.org/x",))


def test_hosts_that_are_none_are_named() -> None:
    with pytest.raises((AssertionError, ValueError)):
        contract.check_manifest(Wide)


class Careless(Tidy):
    """Leaves a program running."""

    def router(self) -> APIRouter:
        os.posix_spawnp(
            "sleep", ["sleep", "60"], os.environ
        )  # no Popen, which would warn of it whenever it goes
        return super().router()


async def test_a_program_left_behind_is_named(tmp_path: Path) -> None:
    began = set(psutil.Process().children())
    with pytest.raises(AssertionError, match=r"programs behind.*sleep"):
        await contract.check_life(Careless, tmp_path)
    for program in set(psutil.Process().children()) - began:
        program.kill()
        program.wait()
