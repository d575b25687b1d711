"""Markdown in the terminal, shown as the model wrote it: line breaks stay, HTML stays visible, code can be copied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import markdown as rich_markdown
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from allod.cli.wrapping import WrappedText

_HIDING_RULES = ["html_block", "html_inline", "reference", "entity"]
"""Rules by which text would vanish or change: all that the model wrote is to be seen."""

ScreenLine = list[Segment]


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable(_HIDING_RULES)


def split_lines(source: str) -> list[str]:
    """The lines of `source`, each with its line feed."""
    return re.findall(r"[^\n]*\n|[^\n]+", source)


def split_blocks(source: str) -> list[str]:
    """`source` in pieces of one block each (a paragraph, a list, a table …); joined they are `source` again."""
    lines = split_lines(source)
    starts = [
        token.map[0] for token in _parser().disable("inline").parse(source) if token.level == 0 and token.map
    ]
    cuts = [0, *sorted(set(starts[1:])), len(lines)]
    return ["".join(lines[start:end]) for start, end in pairwise(cuts)]


def render_markdown(console: Console, source: str) -> list[ScreenLine]:
    """The lines that show `source` in the console's width, without blank ones at either end."""
    return trimmed(console.render_lines(_Markdown(source), pad=False))


def render_thought(console: Console, source: str) -> list[ScreenLine]:
    """The lines that show a model's thoughts: plain and dim."""
    return console.render_lines(WrappedText(source.rstrip("\n"), style="dim"), pad=False)


def trimmed(lines: list[ScreenLine]) -> list[ScreenLine]:
    """`lines` without blanks at the end of each, and without blank ones at either end."""
    lines = [list(Segment.simplify(line)) for line in lines]
    for line in lines:
        while line and not line[-1].text.strip():
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    filled = [index for index, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []


class _Paragraph(rich_markdown.Paragraph):
    def on_enter(self, context: rich_markdown.MarkdownContext) -> None:
        super().on_enter(context)
        self.text = WrappedText()


class _Heading(rich_markdown.Heading):
    LEVEL_ALIGN = dict.fromkeys(rich_markdown.Heading.LEVEL_ALIGN, "left")

    def on_enter(self, context: rich_markdown.MarkdownContext) -> None:
        super().on_enter(context)
        self.text = WrappedText()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = WrappedText("#" * int(self.tag[1:]) + " ", style="dim")
        yield marks.append_text(self.text)


class _CodeBlock(rich_markdown.CodeBlock):
    """Code between dim fences, without margins, so that it can be selected and copied as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name = "" if self.lexer_name == "text" else self.lexer_name
        yield Text(f"```{name}", style="dim")
        code = Syntax("", self.lexer_name, theme="ansi_dark", background_color="default").highlight(
            str(self.text)
        )
        code.rstrip()
        code.no_wrap, code.overflow = False, "fold"
        yield code
        yield Text("```", style="dim")


class _Table(rich_markdown.TableElement):
    """A table whose long words are folded, where Rich would cut them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            for column in table.columns:
                column.overflow = "fold"
            yield table


class _Markdown(rich_markdown.Markdown):
    elements: ClassVar = {
        **rich_markdown.Markdown.elements,
        "paragraph_open": _Paragraph,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "table_open": _Table,
    }

    def __init__(self, source: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = _parser().parse(source)

    def _flatten_tokens(self, tokens: Iterable[Token]) -> Iterable[Token]:
        for token in super()._flatten_tokens(tokens):
            if token.type == "softbreak":
                token.type = "hardbreak"
            yield token
