"""Every example of docs/api.md works as it stands; the Chinese page has the same ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from allod.testing.server import RunningServer
from tests.http_client import owner

ROOT = Path(__file__).parents[2]
_SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def examples(page: str) -> list[str]:
    """The commands of a page, one each, continued lines joined."""
    blocks = _SHELL.findall((ROOT / page).read_text("utf-8"))
    return [command for block in blocks for command in re.findall(r"curl .*?(?=\ncurl|\Z)", block, re.DOTALL)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "command", examples("docs/api.md"), ids=lambda text: text.split("1337")[1][:30].split()[0]
)
def test_an_example_works(server: RunningServer, command: str) -> None:
    here = command.replace("localhost:1337", f"localhost:{server.port}")
    told = subprocess.run(
        ["bash", "-c", here.replace("curl ", "curl -sS --fail-with-body ", 1)],
        capture_output=True,
        timeout=170,
        env={**os.environ, "ALLOD_API_KEY": owner(server)["Authorization"].removeprefix("Bearer ")},
    )
    assert told.returncode == 0, told.stdout + told.stderr
    if '"stream": true' in command:
        assert told.stdout.endswith(b"data: [DONE]\n\n")
    elif told.stdout and "/metrics" not in command:
        json.loads(told.stdout)


def test_the_examples_are_the_same_in_chinese() -> None:
    def shape(page: str) -> list[str]:
        return [
            re.sub(r'"(?:content|prompt|input)": (?:\[.*?\]|"[^"]*")', "", text) for text in examples(page)
        ]

    assert shape("docs/zh-CN/api.md") == shape("docs/api.md")


def test_every_field_named_as_passed_through_is() -> None:
    from allod.extensions.llamacpp import parameters

    known = parameters._NATIVE | parameters._NATIVE_CHAT
    page = (ROOT / "docs/api.md").read_text("utf-8")
    section = page.partition("### Sampling as llama.cpp knows it")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)`", section)) <= known


def test_every_error_is_on_the_page() -> None:
    codes = set(re.findall(r"\| `(\w+)` \|", (ROOT / "docs/reference/errors.md").read_text("utf-8")))
    page = (ROOT / "docs/api.md").read_text("utf-8")
    codes -= {"start_failed", "gateway", "scheduler", "engine", "store", "egress", "extension"}
    assert [code for code in codes if f"`{code}`" not in page and not code.endswith("_error")] == []
