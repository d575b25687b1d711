"""The words: each has its Chinese, with the same blanks to fill, and the locale chooses."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from allod.cli import words
from allod.cli.chinese import CHINESE

SOURCE = Path(words.__file__).parent


def said() -> set[str]:
    """Every text that the command line says, found in its source."""
    calls = (
        node
        for file in SOURCE.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say"
    )
    texts = [call.args[0] for call in calls]
    assert all(isinstance(text, ast.Constant) for text in texts), "say() takes a text that can be looked up"
    return {str(text.value) for text in texts if isinstance(text, ast.Constant)}


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_word_has_its_chinese_and_none_is_left_over() -> None:
    assert said() == set(CHINESE)


@pytest.mark.parametrize("english", CHINESE)
def test_a_translation_has_the_same_blanks(english: str) -> None:
    chinese = CHINESE[english]
    assert blanks(chinese) == blanks(english)
    assert english.isascii() or "…" in english
    assert any("\u4e00" <= character <= "\u9fff" for character in chinese)


@pytest.mark.parametrize(
    ("environment", "is_chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW"}, True),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": "zh_CN.UTF-8"}, True),
    ],
)
def test_the_first_locale_variable_that_is_set_chooses(environment: dict[str, str], is_chinese: bool) -> None:
    assert words.is_chinese(environment) is is_chinese


def test_blanks_are_filled_and_braces_without_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_TABLE", {})
    assert words.say("loading {model}", model="m") == "loading m"
    assert words.say("{as it is}") == "{as it is}"
    monkeypatch.setattr(words, "_TABLE", CHINESE)
    assert words.say("loading {model}", model="m") == "正在载入 m"
    assert words.say("not in the table") == "not in the table"
