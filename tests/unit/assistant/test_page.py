"""The pages on assistants say what is so: commands, fields, parameters and presets; the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allod.extensions.assistant.content import Content
from allod.extensions.assistant.parameters import AssistantParameters
from allod.extensions.assistant.presets import PRESETS
from tests.unit.cli.test_cli_hints import missing

ROOT = Path(__file__).parents[3]
BOTH = pytest.mark.parametrize("page", ["docs/assistants.md", "docs/zh-CN/assistants.md"])


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@BOTH
def test_commands_that_it_names_are_there(page: str) -> None:
    commands = re.findall(r"`allod [^`\n]+`|^allod .+", text_of(page), re.MULTILINE)
    assert len(commands) > 8
    assert [name for each in commands for name in missing(each)] == []


@BOTH
def test_every_field_is_in_the_table(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|[^|]*\|$", text_of(page), re.MULTILINE)
    assert rows == list(Content.model_fields)


@BOTH
def test_every_parameter_is_named(page: str) -> None:
    part = re.split(r"^## ", text_of(page), flags=re.MULTILINE)[2].rpartition("](api.md)")[2]
    assert re.findall(r"`(\w+)`", part) == list(AssistantParameters.model_fields)


@BOTH
def test_presets_have_their_numbers(page: str) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) \| (\d+)[^|]* \| ([\d.]+)[^|]* \| ([\d.]+) \|", text_of(page), re.M
    )
    assert [(name, *map(float, numbers)) for name, *numbers in rows] == [
        (preset.name, *map(float, preset.parameters.model_dump().values())) for preset in PRESETS
    ]


def test_both_show_the_same_commands() -> None:
    def blocks(page: str) -> list[str]:
        return re.findall(r"```sh\n.*?```", text_of(page), re.DOTALL)

    assert blocks("docs/assistants.md") == blocks("docs/zh-CN/assistants.md")
