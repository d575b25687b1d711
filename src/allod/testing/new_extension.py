"""`make new-extension NAME=x`: the files of a new extension inside Allod, which pass `make check test` as they are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from allod.sdk.extension import RESERVED_NAMES, Manifest

_SETTINGS = '''"""What can be set for {name}."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class {kind}Settings(BaseModel):
    """Settings of {name}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    greeting: str = Field(default="Hello", title="Greeting", description="What it says first.")
'''

_EXTENSION = '''"""Says what {name} is there for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allod.extensions.{name}.settings import {kind}Settings
from allod.sdk.extension import Extension, Manifest

if TYPE_CHECKING:
    from fastapi import APIRouter


class {kind}(Extension[{kind}Settings]):
    """Greets."""

    manifest = Manifest(name="{name}", summary="Greets whoever asks.")

    def router(self) -> APIRouter:
        """Routes under /api/{name}."""
        from allod.extensions.{name}.routes import build

        return build(self.context)
'''

_ROUTES = '''"""HTTP for {name}."""

from __future__ import annotations

from fastapi import APIRouter

from allod.extensions.{name}.settings import {kind}Settings
from allod.sdk.context import Context


def build(context: Context[{kind}Settings]) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/greeting")
    async def greeting() -> dict[str, str]:
        """What it says."""
        return {{"greeting": context.settings.greeting}}

    return router
'''

_TEST = '''"""{kind}: keeps the contract, and does what it is there for."""

from __future__ import annotations

from pathlib import Path

from allod.extensions.{name}.extension import {kind}
from allod.testing import contract
from allod.testing.house import gateway_on, point, standing
from tests.unit.gateway.asgi import ask

POINT = point("{name}", "allod.extensions.{name}.extension:{kind}")


async def test_it_keeps_the_contract(tmp_path: Path) -> None:
    await contract.check({kind}, tmp_path)


async def test_it_greets_as_it_is_set(tmp_path: Path) -> None:
    async with standing(tmp_path, [POINT]) as house:
        gateway, key = await gateway_on(house), house.keys.create_own()
        answer = await ask(gateway, "GET", "/api/{name}/greeting", x_api_key=key)
        assert answer.json == {{"greeting": "Hello"}}
        await house.change_settings("{name}", {{"greeting": "Good day"}})
        answer = await ask(gateway, "GET", "/api/{name}/greeting", x_api_key=key)
        assert answer.json == {{"greeting": "Good day"}}
'''


def files_of(name: str) -> dict[str, str]:
    """Each file of a new extension: its path from the repository's root, and its text."""
    kind = "".join(word.capitalize() for word in name.split("_"))
    folder = f"src/allod/extensions/{name}"
    texts = {
        f"{folder}/__init__.py": f'"""{kind}."""\n',
        f"{folder}/settings.py": _SETTINGS,
        f"{folder}/extension.py": _EXTENSION,
        f"{folder}/routes.py": _ROUTES,
        f"tests/unit/{name}/test_{name}.py": _TEST,
    }
    return {path: text.format(name=name, kind=kind) for path, text in texts.items()}


def write(root: Path, name: str) -> list[str]:
    """Write them, and add the entry point. Raises ValueError for a name that cannot be, writing nothing."""
    try:
        Manifest(name=name, summary="New.")
    except ValidationError:
        raise ValueError(f"{name!r} is no name: small letters, digits and single underscores") from None
    if name in RESERVED_NAMES:
        raise ValueError(f"the name {name!r} is taken")
    if (root / "src/allod/extensions" / name).exists():
        raise ValueError(f"there is an extension {name!r} already")
    files = files_of(name)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    project = root / "pyproject.toml"
    head = '[project.entry-points."allod.extensions"]\n'
    before, _, after = project.read_text("utf-8").partition(head)
    table, gap, rest = after.partition("\n\n")
    kind = "".join(word.capitalize() for word in name.split("_"))
    lines = sorted([*table.splitlines(), f'{name} = "allod.extensions.{name}.extension:{kind}"'])
    project.write_text(before + head + "\n".join(lines) + gap + rest, "utf-8")
    return [*files, "pyproject.toml"]


def main() -> int:
    """Write a new extension into the repository that this is run in."""
    parser = argparse.ArgumentParser(prog="make new-extension")
    parser.add_argument("name")
    try:
        written = write(Path.cwd(), parser.parse_args().name)
    except ValueError as error:
        sys.stderr.write(f"{error}.\n")
        return 2
    sys.stdout.write("\n".join(written) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
