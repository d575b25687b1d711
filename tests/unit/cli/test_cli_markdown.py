"""Answers on the screen: nothing that the model wrote is lost, doubled or cut, however it comes and however narrow."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from allod.cli import live_answer
from allod.cli.answer import Piece
from allod.cli.live_answer import LiveScreen
from allod.cli.markdown import render_markdown, split_blocks
from allod.cli.output import tell
from allod.cli.wrapping import break_offsets

ANSWER = """# Title

A paragraph with **bold**, `code` and a [link](http://x.example).
Its second line, <b>html</b> &amp; [ref].

1. one
   - nested
2. two

| name | value |
|---|--:|
| 很长的中文内容没有空格也不能丢 | 1 |
| averyveryverylongwordwithoutspaces | 22 |

```python
def f(x):
    return "a long line of code that is wider than the screen" * x

print(f(2))
```

> quoted

最后一段：中文很长，没有空格，也要在任何宽度下好好换行，一个字都不能少。
"""

text = st.text(st.sampled_from("ab *_`#>-|\n1.\\[]()<&:~!中文，。\t"), max_size=200)


def on_screen(source: str, width: int = 60) -> list[str]:
    screen = Console(width=width, color_system=None)
    return ["".join(segment.text for segment in line) for line in render_markdown(screen, source)]


def letters(source: str) -> str:
    return re.sub(r"[^\w]", "", source)


@given(text)
def test_blocks_joined_are_the_source(source: str) -> None:
    assert "".join(split_blocks(source)) == source


def test_blocks_are_what_can_be_printed_for_good() -> None:
    source = "# T\n\none\ntwo\n\n- a\n\n- b\n\n```\nx\n\ny\n```\nend"
    assert [block.strip() for block in split_blocks(source)] == [
        "# T", "one\ntwo", "- a\n\n- b", "```\nx\n\ny\n```", "end",
    ]  # fmt: skip


@given(st.text(st.sampled_from("ab c，。「」中文字:!?…—"), max_size=80), st.integers(2, 30))
def test_no_part_of_a_line_is_wider_than_the_screen(line: str, width: int) -> None:
    offsets = break_offsets(line, width)
    assert offsets == sorted(set(offsets))
    parts = [line[start:end] for start, end in zip([0, *offsets], [*offsets, None], strict=True)]
    assert "".join(parts) == line
    assert all(cell_len(part.rstrip()) <= width for part in parts)


def test_no_line_begins_with_closing_punctuation() -> None:
    line = "甲乙，丙丁。戊己"
    assert [line[offset] for offset in break_offsets(line, 4)] == ["乙", "丙", "丁", "戊"]
    assert break_offsets("short中文中文", 8) == [6]


@pytest.mark.parametrize("width", [8, 20, 60, 200])
def test_nothing_is_lost_at_any_width(width: int) -> None:
    seen = letters("".join(on_screen(ANSWER, width)))
    assert all(cell_len(line) <= width for line in on_screen(ANSWER, width))
    for word in (
        "很长的中文内容没有空格也不能丢" if width >= 60 else "很",
        "averyveryverylongwordwithoutspaces" if width >= 60 else "ver",
        "bhtmlb",
        "amp",
        "ref",
        "httpxexample" if width > 8 else "http",
        "最后一段中文很长没有空格也要在任何宽度下好好换行一个字都不能少",
    ):
        assert word in seen, word
    assert "…" not in "".join(on_screen(ANSWER, width))


def test_it_is_shown_as_it_was_written() -> None:
    lines = on_screen("one\ntwo **bold** <i>x</i> &lt;\n\n```sh\nls  -l\n\nps\n```")
    assert lines == ["one", "two bold <i>x</i> &lt;", "", "```sh", "ls  -l", "", "ps", "```"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 40 × 8 that keeps every byte."""
    made = Console(
        file=io.StringIO(), force_terminal=True, width=40, height=8, color_system=None, legacy_windows=False
    )
    monkeypatch.setattr(live_answer, "console", lambda: made)
    monkeypatch.setattr(live_answer, "_SHORTEST_PAUSE_S", 0)
    monkeypatch.setattr(live_answer, "time", SimpleNamespace(monotonic=lambda: 0.0))  # every piece is drawn
    return made


def seen_on(terminal: Console) -> list[str]:
    """What a person sees in the end, scrolled away or not; fails if anything above the window is touched."""
    assert isinstance(terminal.file, io.StringIO)
    lines, row, top = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", terminal.file.getvalue()):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
            top = max(top, row + 1 - terminal.height)
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
            assert row >= top, "what has scrolled away cannot be drawn anew"
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] not in "\x1b\r":
            assert not lines[row]
            lines[row] = part
    return [line.rstrip() for line in lines]


def answer_on(terminal: Console, source: str, step: int) -> list[str]:
    with LiveScreen() as screen:
        for start in range(0, len(source), step):
            screen.show(Piece("text", source[start : start + step]))
    return seen_on(terminal)


@pytest.mark.parametrize("step", [1, 3, 50, 10_000])
@pytest.mark.parametrize(
    "source",
    [
        ANSWER,
        "word " * 200,
        "".join(f"- item {n}\n" for n in range(30)),
        "```\n" + "".join(f"line {n}\n" for n in range(30)) + "```\n",
        "| n |\n|---|\n" + "".join(f"| {n} |\n" for n in range(30)),
        "中文" * 300,
    ],
    ids=["mixed", "paragraph", "list", "code", "table", "chinese"],
)
def test_an_answer_that_streams_ends_as_it_would_look_at_once(
    terminal: Console, source: str, step: int
) -> None:
    shown = [line for line in answer_on(terminal, source, step) if line]
    assert shown == [line for line in on_screen(source, 40) if line]


def test_thoughts_stand_apart_from_the_answer(terminal: Console) -> None:
    with LiveScreen() as screen:
        for piece in (
            Piece("thought", "Let me\nthink"),
            Piece("thought", " hard."),
            Piece("text", "**Yes.**"),
        ):
            screen.show(piece)
    assert seen_on(terminal)[:4] == ["Let me", "think hard.", "", "Yes."]


def test_a_model_cannot_steer_the_terminal(terminal: Console) -> None:
    with LiveScreen() as screen:
        screen.show(Piece("text", "a\x1b[2Jb\x1b]0;title\x07c"))
    assert isinstance(terminal.file, io.StringIO)
    assert "\x1b[2J" not in terminal.file.getvalue()
    assert "\x1b]0" not in terminal.file.getvalue()
    assert seen_on(terminal)[0] == "a[2Jb]0;titlec"


def test_what_is_told_is_broken_between_words_and_between_chinese_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tell("put a space before it\x1b[31m\n")
    tell("/help 列出所有命令。要发送")
    assert capsys.readouterr().out.splitlines() == [
        "put a space before",
        "it[31m",
        "",
        "/help 列出所有命令。",
        "要发送",
    ]
