"""What is told to do can be done: every command that a text names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import allod
from allod.cli.main import SECTIONS

SOURCE = Path(allod.__file__).parent
ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"(?<![\w./-])allod ([a-z]+)(?: ([a-z]+)\b)?")
COMMANDS = {name: command for _, commands in SECTIONS for name, command, _ in commands}


def subcommands(name: str) -> set[str]:
    """Empty where a command has none."""
    command = COMMANDS[name]
    if not isinstance(command, typer.Typer):
        return set()
    return {str(each.name) for each in command.registered_commands}


def texts(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def missing(text: str) -> list[str]:
    """The commands in a text that are not there."""
    wrong = []
    for name, word in NAMED.findall(text):
        if name not in COMMANDS:
            wrong.append(name)
        elif word and subcommands(name) and name != "settings" and word not in subcommands(name):
            wrong.append(f"{name} {word}")
    return wrong


def test_errors_and_hints_name_commands_that_exist() -> None:
    wrong = {
        f"{file.name}: {name}"
        for file in SOURCE.rglob("*.py")
        for text in texts(file)
        for name in missing(text)
    }
    assert wrong == set()


@pytest.mark.parametrize("page", ["docs/cli.md", "docs/zh-CN/cli.md", "docs/store.md", "docs/zh-CN/store.md"])
def test_pages_name_commands_that_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    commands = re.findall(r"`allod [^`\n]+`|^ *allod .+", text, re.MULTILINE)
    assert len(commands) > 3
    assert [name for each in commands for name in missing(each)] == []


def test_what_is_not_there_is_found() -> None:
    assert missing("See `allod valt`, allod vault opne, and `allod vault slots`.") == ["valt", "vault opne"]


def test_the_help_of_a_command_is_its_docstring() -> None:
    groups = [command for command in COMMANDS.values() if isinstance(command, typer.Typer)]
    commands = [each for group in groups for each in group.registered_commands]
    assert len(commands) > 30
    for each in commands:
        assert each.callback is not None
        assert each.help == each.callback.__doc__
