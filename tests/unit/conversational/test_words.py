"""Words for search, against a real FTS5: what is in a text is found, every query can be read, hits are marked."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlcipher3 import dbapi2

from allod.extensions.conversational.words import Piece, indexed, match, snippet

CJK = "中文字语言，。我们在a搜索ひらカナ한국어 𠀀々〇e1"
CJK_TEXT = st.text(st.sampled_from(CJK), max_size=40)
WORDS = st.text(
    st.sampled_from("abzÄßéİΣςАяЁйαάאبñ09ＡｂìＩ中文カ한_-'\" .,\n!“”🎉\u0301\u3099\u200d\ufe0f()*:^{}+"),
    max_size=40,
)
ANY = st.text(max_size=60)


class Index:
    """A table as the store has it, and whether it finds a text."""

    def __init__(self, tokenizer: str = "unicode61 remove_diacritics 2") -> None:
        self._connection = dbapi2.connect(":memory:")
        self._connection.execute(
            f"CREATE VIRTUAL TABLE t USING fts5(body, content='', contentless_delete=1, tokenize='{tokenizer}')"
        )

    def finds(self, text: str, query: str) -> bool:
        self._connection.execute("DELETE FROM t WHERE rowid = 1")
        self._connection.execute("INSERT INTO t (rowid, body) VALUES (1, ?)", (indexed(text),))
        return self.has(query)

    def has(self, query: str) -> bool:
        expression = match(query)
        if expression is None:
            return False
        rows = self._connection.execute("SELECT rowid FROM t WHERE t MATCH ?", (expression,)).fetchall()
        return bool(rows)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def index() -> Index:
    return Index()


def marked(pieces: list[Piece]) -> str:
    return "".join(f"<{piece.text}>" if piece.is_hit else piece.text for piece in pieces)


def without_marks(text: str) -> str:
    return "".join(letter for letter in text if unicodedata.category(letter) != "Mn")


# what is in a text is found


@given(text=CJK_TEXT, data=st.data())
def test_each_part_of_a_chinese_japanese_or_korean_run_is_found(
    index: Index, text: str, data: st.DataObject
) -> None:
    runs = [run for run in re.findall(r"[^\x00-\xff，。]+", text) if len(run) >= 2]
    assume(runs)
    run = data.draw(st.sampled_from(runs))
    start = data.draw(st.integers(0, len(run) - 2))
    end = data.draw(st.integers(start + 2, len(run)))
    assert index.finds(text, run[start:end])
    assert index.has(run[start])


@given(text=CJK_TEXT, asked=CJK_TEXT)
def test_a_run_is_found_only_where_it_stands(index: Index, text: str, asked: str) -> None:
    runs = re.findall(r"[^\x00-\xff，。]{2,}", asked)
    assume(runs)
    assert index.finds(text, runs[0]) == (runs[0] in text)


@given(text=WORDS, data=st.data())
def test_each_word_is_found_as_it_is_and_by_how_it_begins(
    index: Index, text: str, data: st.DataObject
) -> None:
    words = re.findall(r"[^\W_]+", without_marks(unicodedata.normalize("NFC", text)))
    assume(words)
    word = data.draw(st.sampled_from(words))
    assert index.finds(text, word)
    assert index.has("".join(letter.upper()[:1] if letter != "ß" else letter for letter in word))
    assert index.has(f"{data.draw(st.sampled_from(words))} {word}")


@given(WORDS)
def test_a_text_is_found_by_itself_wherever_it_stands(index: Index, text: str) -> None:
    assume(match(text))
    assert index.finds(text, text)
    assert index.finds(f"before {text} 中", text)


@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("机器学习", "器学", True),
        ("机器学习", "学器", False),
        ("机器，学习", "器学", False),  # no pair over a boundary
        ("机器a学习", "器学", False),
        ("机器\n学习", "机器 学习", True),
        ("机器学习", "习", True),
        ("机器学习", "写", False),
        ("学习Python教程", "Python教程", True),
        ("Python 的教程", "Python教程", True),
        ("我爱 Python", "爱py", True),
        ("foo-bar", "foo-bar", True),
        ("foo and bar", "foo-bar", False),
        ("foo and bar", "bar foo", True),
        ("foo and bar", '"bar foo"', False),
        ("foo bar", '"foo bar"', True),
        ("foo bar", '"foo ba"', False),  # a closed phrase is whole
        ("foo bar", '"foo ba', True),  # an open one is still being typed
        ("foo bar", "fo bar", False),
        ("foo bar", "foo ba", True),
        ("机器 学习", "“机器 学习”", True),
        ("机器 与学习", "“机器 学习”", False),
        ("机器学习 abc", '"学习 abc"', True),
        ("学习机器 abc", '"学习 abc"', False),
        ("学 习惯", '"学 习"', True),
        ("ＡＢＣ１２", "abc12", True),
        ("abc12", "ＡＢＣ１２", True),
        ("Crème brûlée", "creme BRULEE", True),
        ("cre\u0300me", "crème", True),
        ("tiếng Việt", "tieng viet", True),
        ("Ёлка", "елка", True),
        ("ΟΔΟΣ οδός", "οδος", True),
        ("か\u3099くせい", "がく", True),
        ("葛\U000e0100城", "葛城", True),
        ("\u1112\u1161\u11ab국", "한국", True),  # a Korean syllable written by its letters
        ("don’t", "don't", True),
        ("user@example.com", "example.com", True),
        ("a🎉b", "b", True),
        ("NOT found", "not", True),
        ("x", "NOT", False),
        ("col: x", "col:x", True),
        ("a b", "a\ud800b", True),
    ],
)
def test_what_finds_what(index: Index, text: str, query: str, is_found: bool) -> None:
    assert index.finds(text, query) == is_found


def test_accents_do_not_hang_on_how_the_table_was_made() -> None:
    index = Index("unicode61 remove_diacritics 0")
    assert index.finds("tiếng Việt", "tieng viet")
    index.close()


@given(ANY | WORDS)
def test_every_query_can_be_read(index: Index, query: str) -> None:
    index.has(query)
    expression = match(query)
    assert expression is None or re.fullmatch(r'"[^"\0]+"\*?( "[^"\0]+"\*?)*', expression)
    assert expression is not None or not any(letter.isalnum() for letter in query)


@pytest.mark.parametrize("query", ["", " ", '""', "!?", "🎉", "“”", "_", "\ud800", "\0"])
def test_nothing_to_look_for(query: str) -> None:
    assert match(query) is None
    assert marked(snippet("some text", query)) == "some text"


# where it stands


@given(text=ANY | WORDS | CJK_TEXT, query=ANY | WORDS | CJK_TEXT, width=st.integers(1, 30))
def test_a_passage_is_a_part_of_the_text(text: str, query: str, width: int) -> None:
    pieces = snippet(text, query, width)
    shown = "".join(piece.text for piece in pieces)
    whole = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    assert all(piece.text for piece in pieces)
    assert len(shown) <= width + 2
    assert shown.removeprefix("…").removesuffix("…") in whole or shown in whole


@given(text=WORDS, query=WORDS)
def test_what_is_found_is_marked_and_nothing_else(index: Index, text: str, query: str) -> None:
    if index.finds(text, query):
        assert any(piece.is_hit for piece in snippet(text, query))
    elif " " not in query and '"' not in query and re.fullmatch(r"[^\W_中文カ한]+", query):
        assert not any(piece.is_hit for piece in snippet(text, query))


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("Der Kranich zieht.", "kran", "Der <Kranich> zieht."),
        ("Der Kranich zieht.", "kran zieht", "Der Kranich <zieht>."),
        ("CRÈME Brûlée, creme", "crème", "<CRÈME> Brûlée, <creme>"),
        ("cre\u0300me x̂y", "creme xy", "<crème> <x̂y>"),
        ("scream cream", "cream", "scream <cream>"),
        ("我们学习机器学习。", "学习", "我们<学习>机器<学习>。"),
        ("我们学Python习", "python 学", "我们<学><Python>习"),
        ("foo-bar foo bar barfoo", "foo-bar", "<foo-bar> <foo bar> barfoo"),
        ("one\n\n  two\tthree", "two", "one <two> three"),
        ("ＡＢＣ abc", "abc", "<ＡＢＣ> <abc>"),
        ("学习习", "学习 习习", "<学习习>"),
        ("", "x", ""),
    ],
)
def test_marks(text: str, query: str, shown: str) -> None:
    assert marked(snippet(text, query)) == shown


def test_the_passage_with_most_words_is_shown() -> None:
    text = "the the the " + "far " * 60 + "the crane of the harbour" + " far" * 60
    shown = marked(snippet(text, "the crane harbour", 60))
    assert "<the> <crane> of <the> <harbour>" in shown
    assert shown.endswith("far…")
    assert shown.startswith("…far ")


def test_a_hit_longer_than_the_width_is_cut() -> None:
    assert marked(snippet("before " + "学" * 50, "学" * 40, 10)) == f"…<{'学' * 10}>…"


def milliseconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return min(spent) * 1000


@pytest.mark.parametrize(
    "sentence", ["The quick brown fox. ", "Le cœur déçu. ", "Съешь ещё булок. ", "很长的段落，没有空格。"]
)
def test_long_texts_take_no_time_worth_a_thought(sentence: str) -> None:
    text = (sentence * 10_000).encode()[:100_000].decode(errors="ignore")
    assert milliseconds(lambda: indexed(text)) < 50  # 1 to 6 on the machine it was written on
    assert milliseconds(lambda: snippet(text, sentence)) < 50


def test_no_query_takes_for_ever() -> None:
    assert milliseconds(lambda: snippet("a " * 50_000, "a b c d e f g a*", 160)) < 100
