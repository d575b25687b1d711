"""What is typed: settings, times, sizes, commands of a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allod.cli.answer import Answer
from allod.cli.chat_commands import COMMANDS, Leave, is_command, obey
from allod.cli.client import Client
from allod.cli.failures import Exit, Failure
from allod.cli.models import _seconds
from allod.cli.options import parse_setting, parse_settings
from allod.cli.output import duration, printable, size
from allod.cli.stateless import StatelessConversation


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("temperature=0.2", 0.2),
        ("max_tokens=10", 10),
        ("stop=\\n", "\\n"),
        ('stop=["a","b"]', ["a", "b"]),
        ("user=anna", "anna"),
        ("grammar=root ::= x=y", "root ::= x=y"),
        ("cache_prompt=false", False),
        ("user=", ""),
    ],
)
def test_a_setting_is_json_where_it_reads_as_such(typed: str, value: Any) -> None:
    assert parse_settings([typed]) == {typed.partition("=")[0]: value}


@pytest.mark.parametrize("typed", ["temperature", "=1", "model=x", "messages=[]", "stream=true", "n=2"])
def test_a_setting_that_cannot_be_set_is_a_usage_error(typed: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_settings([typed])
    assert caught.value.exit_code == Exit.USAGE


def test_a_setting_of_nothing_is_refused() -> None:
    with pytest.raises(Failure):
        parse_setting("", "1")


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2 h", 7200), ("1d", 86400), ("-1", -1)]
)
def test_a_time_is_read(typed: str, seconds: float) -> None:
    assert _seconds(typed) == seconds


@pytest.mark.parametrize("typed", ["", "soon", "5 weeks", "1h30m", "nan"])
def test_what_is_no_time_is_a_usage_error(typed: str) -> None:
    with pytest.raises(Failure) as caught:
        _seconds(typed)
    assert caught.value.exit_code == Exit.USAGE


def test_figures_for_people() -> None:
    assert [size(n) for n in (None, 0, 12, 999, 1000, 98_362_432, 913_551_360, 2e12)] == [
        "", "", "12 B", "999 B", "1.0 kB", "98.4 MB", "914 MB", "2.0 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (None, 0.004, 9.99, 12.4, 1795, 9000)] == [
        "", "0.00 s", "9.99 s", "12 s", "30 min", "2 h",
    ]  # fmt: skip


def test_what_could_steer_the_terminal_is_not_printed() -> None:
    assert printable("a\x1b[31mb\x07\r\x9bc\n\td") == "a[31mbc\n\td"


NOWHERE = Client("http://127.0.0.1:9")  # where nobody listens


def conversation() -> StatelessConversation:
    talk = StatelessConversation(NOWHERE, "model")
    talk.add("Question?", Answer(text="Answer."))
    return talk


def do(line: str, talk: StatelessConversation) -> str:
    said = obey(line, talk, NOWHERE)
    assert isinstance(said, str)
    return said


def test_a_slash_makes_a_command_and_a_space_before_it_a_message() -> None:
    assert is_command("/set x 1")
    assert not is_command(" /etc/passwd")


def test_set_sets_shows_and_unsets() -> None:
    talk = conversation()
    assert do("/set temperature 0.2", talk) == "temperature = 0.2"
    assert do('/set stop ["a", "b"]', talk).splitlines() == ["temperature = 0.2", 'stop = ["a", "b"]']
    assert talk.question("?")["stop"] == ["a", "b"]
    assert do("/set temperature", talk) == 'stop = ["a", "b"]'
    assert do("/set stop", talk) == "Nothing is set; the model's own settings hold."
    with pytest.raises(Failure, match="not set"):
        do("/set temperature", talk)
    assert do("/set temperature=0.2", talk) == "temperature = 0.2"
    assert do("/set stop null", talk).splitlines()[1] == "stop = null"
    assert do("/set stop", talk) == "temperature = 0.2"
    assert do("/set grammar root ::= x=y", talk).endswith('grammar = "root ::= x=y"')


def test_system_stands_before_all_and_survives_a_reset() -> None:
    talk = conversation()
    do("/system Be brief.", talk)
    messages = talk.question("More?")["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    do("/reset", talk)
    assert talk.question("New?")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "New?"},
    ]
    assert do("/system", talk) == "Be brief."
    do("/system -", talk)
    assert len(talk.question("New?")["messages"]) == 1
    assert do("/system", talk) == "There are no instructions."


def test_an_answer_that_never_began_leaves_no_question() -> None:
    talk = StatelessConversation(NOWHERE, "model")
    talk.add("Question?", Answer())
    assert talk.messages == []
    assert talk.ending(Answer(), is_stopped=True) == [
        "(stopped before the answer began; the question is dropped)"
    ]


def test_a_conversation_is_saved_in_two_forms(tmp_path: Path) -> None:
    talk = conversation()
    talk.system = "Be brief."
    do(f"/save {tmp_path}/talk.json", talk)
    do(f"/save {tmp_path}/a talk.md", talk)
    assert json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"][-1]["content"] == "Answer."
    markdown = (tmp_path / "a talk.md").read_text("utf-8")
    assert markdown == "## Instructions\n\nBe brief.\n\n## You\n\nQuestion?\n\n## model\n\nAnswer.\n"


def test_only_a_file_of_its_own_is_overwritten(tmp_path: Path) -> None:
    talk, foreign = conversation(), tmp_path / "foreign.md"
    do(f"/save {tmp_path}/own.md", talk)
    talk.add("Again?", Answer(text="Yes."))
    do(f"/save {tmp_path}/own.md", talk)
    assert "Yes." in (tmp_path / "own.md").read_text("utf-8")
    foreign.write_text("dear to somebody")
    for line, reason in [
        (f"/save {foreign}", "exists already"),
        (f"/save {tmp_path}/no/such/folder.md", "cannot be written"),
        ("/save", "needs the name"),
    ]:
        with pytest.raises(Failure, match=reason):
            do(line, talk)
    assert foreign.read_text() == "dear to somebody"


def test_stats_is_a_switch_that_also_tells_of_the_last_answer() -> None:
    talk = conversation()
    assert talk.last is not None
    talk.last.usage = {"prompt_tokens": 12, "completion_tokens": 3}
    talk.last.timings = {"prompt_per_second": 100.0, "predicted_per_second": 20.0, "cache_n": 5}
    talk.last.first_piece_s, talk.last.whole_s = 0.25, 1.5
    said = do("/stats", talk)
    assert said.endswith(
        "first token after 0.25 s · prompt 12 tokens, 100.0 tokens/s (5 from the cache)"
        " · answer 3 tokens, 20.0 tokens/s · 1.50 s"
    )
    assert talk.shows_stats
    do("/stats", talk)
    assert not talk.shows_stats


def test_help_names_every_command_and_exit_leaves() -> None:
    talk = conversation()
    told = do("/help", talk)
    assert all(f"\n{name} " in f"\n{told}" for name in COMMANDS if name != "/help")
    assert max(map(len, told.splitlines())) < 80
    with pytest.raises(Leave):
        do("/exit", talk)
    with pytest.raises(Failure, match="/nix"):
        do("/nix", talk)
