"""`allod assistants` on a real server: made, changed, compared, brought back, shared and deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.cli.failures import Exit
from allod.testing.server import RunningServer, running_server
from tests.command_line import allod, at_terminal, lines, refused, told
from tests.http_client import get

FIRST = "Answer {user_name}.\nBe brief.\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to be changed."""
    home = tmp_path_factory.mktemp("assistants") / "home"
    with running_server(home, settings="[server]\npreload = false\n") as running:
        yield running


def test_the_first_one_is_there(house: RunningServer) -> None:
    shown = lines(house, "assistants")
    assert shown == lines(house, "assistants", "list")
    assert shown[0].split() == ["NAME", "VERSION", "MODEL", "CHANGED", "ID", "SUMMARY"]
    (row,) = [line for line in shown if "Allod" in line]
    assert row.startswith("*")
    assert "temperature=0.8" in "\n".join(lines(house, "assistants", "show", "allod"))


def test_one_lives_from_its_making_to_its_end(house: RunningServer, tmp_path: Path) -> None:
    made = allod(
        house,
        *("assistants", "create", "Ana", "-i", "-", "-d", "Reads code.", "--preset", "precise"),
        *(
            "--set",
            "seed=7",
            "--tool",
            "notes_find",
            "--tool",
            "web_fetch",
            "--starter",
            "Look:",
            "--memory-only",
        ),
        stdin=FIRST,
    )
    assert made.stdout == "Made the assistant Ana.\n", made.stderr
    ana = told(house, "assistants", "show", "ANA")
    assert ana["instructions"] == FIRST
    assert (ana["parameters"]["seed"], ana["preset"]) == (7, "precise")
    assert (ana["tools"], ana["starters"], ana["memory_only"]) == (
        ["notes_find", "web_fetch"],
        ["Look:"],
        True,
    )

    edited = lines(
        house, "assistants", "edit", "Ana", "-i", "Answer.", "--set", "seed=null", "--set", "top_k=5"
    )
    assert edited == ["Ana is at version 2 now."]
    assert lines(house, "assistants", "edit", "Ana", "-i", "Answer.") == ["Ana was so already: version 2."]
    now = told(house, "assistants", "show", "Ana")
    assert now["parameters"] == {"temperature": 0.2, "top_k": 5, "top_p": 0.9, "min_p": 0.05}
    assert now["tools"] == ["notes_find", "web_fetch"], "what was not named stays"
    cleared = told(
        house, "assistants", "edit", "Ana", "--tool", "", "--no-memory-only", "--preset", "creative"
    )
    assert (cleared["tools"], cleared["memory_only"], cleared["preset"]) == ([], False, "creative")

    listed = lines(house, "assistants", "versions", "Ana")
    assert listed[0].split() == ["VERSION", "TIME", "CHANGED", "FIELDS", "RESTORED", "FROM"]
    assert [line.split()[0] for line in listed[1:]] == ["3", "2", "1"]
    shown = lines(house, "assistants", "diff", "Ana", "1", "2")
    assert shown[3:7] == ["-Answer {user_name}.", "-Be brief.", "-", "+Answer."]
    assert shown[7:] == ["parameters.top_k: 40 → 5", "parameters.seed: 7 → -"]
    assert told(house, "assistants", "diff", "Ana")["from"] == 2
    same = allod(house, "assistants", "diff", "Ana", "2", "2")
    assert (same.stdout, same.stderr) == ("", "Versions 2 and 2 are the same.\n")
    assert lines(house, "assistants", "restore", "Ana", "1") == ["Ana is at version 4 now."]
    assert "Be brief." in lines(house, "assistants", "show", "Ana")
    assert "Answer." in lines(house, "assistants", "show", "Ana", "--version", "2")

    assert lines(house, "assistants", "duplicate", "Ana") == ["Made the assistant Ana (2)."]
    assert lines(house, "assistants", "duplicate", "Ana", "Bo") == ["Made the assistant Bo."]
    assert lines(house, "assistants", "edit", "Bo", "--name", "Cy") == ["Cy is at version 2 now."]
    assert lines(house, "assistants", "default", "cy") == ["Cy is the default assistant."]
    assert "allod assistants default" in refused(house, Exit.BAD_REQUEST, "assistants", "delete", "Cy")
    for name in ("Ana", "Ana (2)"):
        assert lines(house, "assistants", "delete", name) == [f"Deleted the assistant {name}."]
    assert lines(house, "assistants", "default", "Allod") == ["Allod is the default assistant."]
    assert told(house, "assistants", "delete", "Cy", "--yes")["deleted"].startswith("assistant_")
    assert [each["name"] for each in told(house, "assistants")["assistants"]] == ["Allod"]


def test_one_goes_out_as_a_file_and_comes_back(house: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "ana.json"
    told(
        house,
        "assistants",
        "create",
        "小明",
        "-i",
        "你好，{user_name}。",
        "--avatar",
        "🦉",
        "--set",
        "temperature=1",
    )
    assert lines(house, "assistants", "export", "小明", str(file)) == [f"Wrote {file}."]
    assert json.loads(file.read_text("utf-8")) == told(house, "assistants", "export", "小明")
    assert "exists already" in refused(house, Exit.USAGE, "assistants", "export", "小明", str(file))
    assert told(house, "assistants", "export", "小明", str(file), "--force") == {"file": str(file)}
    assert lines(house, "assistants", "import", str(file)) == ["Made the assistant 小明 (2)."]
    piped = allod(house, "assistants", "import", "-", stdin=file.read_text("utf-8"))
    assert piped.stdout == "Made the assistant 小明 (3).\n"
    copy = told(house, "assistants", "show", "小明 (3)")
    assert (copy["avatar"], copy["instructions"]) == ("🦉", "你好，{user_name}。")
    wrong = file.read_text("utf-8").replace('"temperature"', '"temprature"')
    said = refused(house, Exit.BAD_REQUEST, "assistants", "import", "-", stdin=wrong)
    assert "assistant.parameters" in said and "'temperature'" in said
    assert "not JSON" in refused(house, Exit.USAGE, "assistants", "import", "-", stdin="{")
    gone = str(tmp_path / "gone.json")
    assert "cannot be read" in refused(house, Exit.USAGE, "assistants", "import", gone)
    nowhere = str(tmp_path / "no" / "a.json")
    assert "cannot be written" in refused(house, Exit.UNEXPECTED, "assistants", "export", "小明", nowhere)
    for number in ("", " (2)", " (3)"):
        told(house, "assistants", "delete", f"小明{number}")


def test_what_is_wrong_is_said_with_the_way_out(house: RunningServer) -> None:
    assert "`allod assistants`" in refused(house, Exit.NOT_FOUND, "assistants", "show", "nobody")
    assert "called 'allod'" in refused(house, Exit.BAD_REQUEST, "assistants", "create", "allod")
    assert "--help" in refused(house, Exit.USAGE, "assistants", "edit", "Allod")
    hot = refused(house, Exit.BAD_REQUEST, "assistants", "edit", "Allod", "--set", "temperature=9")
    assert "parameters.temperature" in hot
    assert "NAME=VALUE" in refused(house, Exit.USAGE, "assistants", "create", "x", "--set", "temperature")


def test_a_person_is_asked_before_one_is_deleted(house: RunningServer) -> None:
    told(house, "assistants", "create", "Ana")
    for answer, remain in (("n", True), ("y", False)):
        with at_terminal(house, "assistants", "delete", "Ana") as terminal:
            terminal.sees("Delete Ana with 1 version(s)? [y/N]")
            terminal.types(f"{answer}\n")
            terminal.process.wait(30)
        assert ("Ana" in [each["name"] for each in told(house, "assistants")["assistants"]]) is remain


def test_presets_are_explained_also_in_chinese(house: RunningServer) -> None:
    shown = "\n".join(lines(house, "assistants", "presets"))
    assert "creative: temperature=1.1" in shown and "min_p" in shown
    assert len(told(house, "assistants", "presets")["presets"]) == 3
    chinese = lines(house, "assistants", LANG="zh_CN.UTF-8")
    assert chinese[0].split() == ["名称", "版本", "模型", "变更时间", "编号", "说明"]


def test_words_of_assistants_are_in_no_log_and_in_no_plain_file(house: RunningServer) -> None:
    told(house, "assistants", "create", "canary-7f3a", "-i", "canary-7f3a words")
    refused(house, Exit.BAD_REQUEST, "assistants", "edit", "canary-7f3a", "--model", "canary-7f3a" * 40)
    found = get(house, "/api/assistant/assistants/canary-7f3a")
    assert found.json["instructions"] == "canary-7f3a words", "the control"
    told(house, "assistants", "delete", "canary-7f3a")
    assert "canary-7f3a" not in house.log_text()
    for folder, _, names in os.walk(house.home):
        for name in names:
            file = Path(folder) / name
            assert not file.is_file() or b"canary-7f3a" not in file.read_bytes(), file
