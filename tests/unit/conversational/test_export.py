"""Threads to be read: Markdown that keeps its shape, and HTML that asks nothing of anybody."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from allod.extensions.conversational.export_html import as_html
from allod.extensions.conversational.export_markdown import as_markdown
from allod.extensions.conversational.exported import ExportedMessage, ExportedThread
from allod.extensions.conversational.parts import Citation, Reasoning, Text, ToolCall
from tests.unit.conversational.threads_made import PIXEL, WHOLE, answer, exported_threads, thread_of

CANARY = '<script src="https://evil.example/x.js">alert(1)</script><img src=//evil.example onerror=x>"\'</style></div>'
HOSTILE = st.sampled_from(
    [CANARY, "a", "&lt;", "]]>", "<!--", "</title>", "</details>", "\n\n", '" onload="x', "url(x)"]
)
HOSTILE_TEXT = st.lists(HOSTILE, max_size=4).map("".join)


class Page(HTMLParser):
    """What a browser makes of a file: its tags with their attributes, and the text of each block that was typed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.typed: list[str] = []
        self.shown = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("meta", "img"):
            return
        self._open.append(tag)
        if dict(attrs).get("class") == "text":
            self.typed.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        else:
            self.shown += data
        if self.typed and self.tags[-1][1].get("class") == "text" and self._open[-1:] == ["div"]:
            self.typed[-1] += data

    def attribute(self, tag: str, name: str) -> list[str | None]:
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]


def hostile(text: str) -> ExportedThread:
    message = answer(
        Text(text=text),
        Reasoning(text=text),
        ToolCall(id=text, name=text, arguments=text),
        PIXEL.model_copy(update={"name": text}),
        Citation(source=text, title=text, quote=text, start=0, end=1, url=text),
        model=text,
        status="error",
        error={"detail": text},
    )
    return thread_of(message, title=text, attachments={"b1": b"abc"})


# HTML

_TAGS = set(
    "html head meta title style body header h1 main article div b details summary figure figcaption"
    " pre img ol li".split()
)
_ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "dir", "src", "alt"}


@given(exported_threads() | HOSTILE_TEXT.map(hostile))
def test_nothing_that_was_said_becomes_html(thread: ExportedThread) -> None:
    page = Page(as_html(thread))
    assert {tag for tag, _ in page.tags} <= _TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= _ATTRIBUTES
    for source in page.attribute("img", "src"):
        assert re.fullmatch(r"data:[a-z.+/-]+;base64,[A-Za-z0-9+/=]*", source or "")
    assert page.attribute("meta", "http-equiv") == ["Content-Security-Policy"]


@given(HOSTILE_TEXT)
def test_text_is_shown_as_it_was_typed(text: str) -> None:
    page = Page(as_html(hostile(text)))
    assert page.typed == ([text] if text else []) + [text]
    assert page.shown.count(text) >= 8


def test_nothing_may_be_loaded_but_the_images_inside() -> None:
    page = Page(as_html(WHOLE))
    policy = page.attribute("meta", "content")[0]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert page.attribute("img", "src") == ["data:image/png;base64,iVBO"]


def test_a_page_says_who_said_what_when() -> None:
    page = Page(as_html(WHOLE))
    said = re.sub(r"\s+", " ", page.shown)
    assert "User · 1970-01-01 00:00 UTC What is *this*? # no title dot.png File: a_b.csv" in said
    assert "Assistant · tiny_model · 1970-01-02 00:00 UTC Reasoning" in said
    assert 'Tool look_up {"q": "``` x"}' in said
    assert "Tool look_up failed no ```` luck" in said
    assert "On *dots* · doc 1 · “red” · https://example.com/a_b" in said
    assert "Cut off: the limit of tokens was reached." in said
    assert "another branch" not in said


def test_an_image_that_is_not_there_is_named() -> None:
    page = Page(as_html(thread_of(answer(PIXEL))))
    assert "Image: dot.png" in page.shown
    assert page.attribute("img", "src") == []


def test_line_feeds_at_the_beginning_are_kept() -> None:
    assert "<pre>\n\nx</pre>" in as_html(thread_of(answer(ToolCall(id="", name="", arguments="\nx"))))
    assert Page(as_html(thread_of(answer(Text(text="\n  x"))))).typed == ["\n  x"]


# Markdown


def headings(source: str) -> list[str]:
    tokens = MarkdownIt().parse(source)
    return [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]


def test_the_whole_document() -> None:
    assert as_markdown(WHOLE) == WHOLE_AS_MARKDOWN


WHOLE_AS_MARKDOWN = r"""# Dots & \<b\>

*1970-01-01 00:00 UTC*

## User

*1970-01-01 00:00 UTC*

What is *this*?
  # no title

[Image: dot.png]

[File: a\_b.csv]

## Assistant (tiny\_model)

*1970-01-02 00:00 UTC*

<details>
<summary>Reasoning</summary>

Let me &lt;/details> think.

</details>

I look.

Tool look\_up:

````json
{"q": "``` x"}
````

Tool look\_up failed:

`````
no ```` luck
`````

It is red[^1], I think.[^2]

*Cut off: the limit of tokens was reached.*

[^1]: On \*dots\*, doc 1, “red”, https://example.com/a\_b
[^2]: doc 2
"""


@given(exported_threads())
def test_every_thread_can_be_written(thread: ExportedThread) -> None:
    written = as_markdown(thread)
    assert written.startswith("# ")
    for message in thread.active_path():
        for part in message.parts:
            if isinstance(part, Text) and not any(isinstance(each, Citation) for each in message.parts):
                assert part.text in written


@pytest.mark.parametrize("cut", ["```python\nprint(", "~~~\ncode", "````\n```\nx", "```\na\n```\n\n```\nb"])
def test_code_that_was_cut_off_swallows_nothing(cut: str) -> None:
    first = answer(Text(text=cut))
    second = ExportedMessage(id="b", parent="a", role="user", parts=(Text(text="next"),), created_at=0)
    assert headings(as_markdown(thread_of(first, second))) == ["A title", "Assistant", "User"]


def test_names_and_titles_are_no_markdown() -> None:
    thread = thread_of(answer(PIXEL.model_copy(update={"name": "a\n# b [x](y)"})), title="# One\n\n## Two")
    written = as_markdown(thread)
    assert headings(written) == ["\\# One \\#\\# Two", "Assistant"]
    assert "[Image: a \\# b \\[x\\](y)]" in written


def test_several_marks_in_one_place_stand_in_order() -> None:
    def cited(source: str, end: int) -> Citation:
        return Citation(source=source, title="", start=0, end=end)

    written = as_markdown(
        thread_of(
            answer(
                cited("0", 5),
                Text(text="one "),
                cited("1", 3),
                cited("2", 3),
                cited("3", 1),
                Text(text="two"),
            )
        )
    )
    assert "[^1]\n\n" not in written
    assert "[^1]o[^4]ne[^2][^3] two\n" in written
    assert written.endswith("[^1]: 0\n[^2]: 1\n[^3]: 2\n[^4]: 3\n")
