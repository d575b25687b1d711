"""Words for full-text search: how a text is indexed, how a query is asked for, and where in a text its words stand.

FTS5 takes a run of Chinese, Japanese or Korean for one word, since nothing parts its words. Here such a run becomes
overlapping pairs of characters, and its last character alone: a part of it is found as a phrase of pairs. All else is
split as the tokenizer unicode61 does, without regard to case, accents and full width. Nothing here touches a database.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

_CJK = (
    "々-〇〡-〩〱-〵〸-〼㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "ぁ-ゖゝ-ゟ\U0001b000-\U0001b16fァ-ヺー-ヿㇰ-ㇿ\uff66-\uff9f"  # Hiragana, Katakana
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c가-힣\ud7b0-\ud7fb"  # Hangul
)
_LETTER = rf"[^\W_{_CJK}]"  # or a digit, of all other scripts
_RUN = re.compile(f"[{_CJK}]+")
_WORD = re.compile(f"[{_CJK}]+|{_LETTER}+")
_OF_ONE_KIND = re.compile(f"[{_CJK}]+|[^{_CJK}]+")
_QUOTE = '"“”„＂'
_ASKED = re.compile(rf"[{_QUOTE}]([^{_QUOTE}]*)([{_QUOTE}]?)|([^\s{_QUOTE}]+)")
_SPACE = re.compile(r"\s+")
_FURTHEST_SPACE = 20  # a passage begins and ends at a space, if one is so near
_MOST_HITS = 300  # of a phrase: enough to choose a passage from


def indexed(text: str) -> str:
    """What is to be written into the FTS5 table for `text`; its tokenizer parts the words at the spaces."""
    return _RUN.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", _folded(_composed(text)))


def terms(text: str) -> set[str]:
    """The words of a text as they are compared: without case and accents, a CJK run as its pairs."""
    words = _WORD.findall(_folded(_composed(text)))
    return {term for word in words for term in (_pairs(word) if _is_cjk(word) else [word])}


def match(query: str) -> str | None:
    """The FTS5 expression that finds what has all words of `query`; None where it holds no word.

    Words in "quotation marks" stay together in their order, as does what is written without a space, such as foo-bar.
    What is being typed still, the last word, may go on. No text makes an expression that FTS5 cannot read.
    """
    # no AND: between phrases it is meant anyway, and it would find nothing where FTS5 sees no word in one of them
    return " ".join(_expression(phrase) for phrase in _phrases(query)) or None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a passage: words of the query, or what stands between them."""

    text: str
    is_hit: bool


def snippet(text: str, query: str, width: int = 160) -> list[Piece]:
    """The passage of `text`, about `width` characters of one line, in which most words of `query` stand.

    The beginning of the text where none stands in it. "…" shows where it was cut.
    """
    text = _composed(text)
    hits = _hits(text, query)
    start, end = _passage(text, hits, width)
    pieces = [Piece("…", False)] if start > 0 else []
    at = start
    for hit in _merged(hits):
        if start <= hit.start < end:
            pieces += [Piece(text[at : hit.start], False), Piece(text[hit.start : min(hit.end, end)], True)]
            at = min(hit.end, end)
    pieces.append(Piece(text[at:end] + ("…" if end < len(text) else ""), False))
    return [Piece(_SPACE.sub(" ", piece.text), piece.is_hit) for piece in pieces if piece.text]


# how letters are compared


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(composed: str) -> str:
    """The text as it is compared. Each character stays one, but combining marks, which vanish."""
    if _FOLDABLE.search(composed):
        composed = composed.translate(_FOLDED)
    return composed.lower()


def _fold(character: str) -> str:
    """Without its accents, in lower case, narrow: always one character; empty for a combining mark."""
    if unicodedata.category(character) == "Mn":
        return ""
    base = unicodedata.normalize("NFKC" if character > "\uff00" else "NFD", character)[0]
    return base.casefold() if len(base.casefold()) == 1 else base.lower()


def _fold_table() -> dict[int, str]:
    # up to Arabic, and Latin and Greek with accents; tone, voicing and variation marks; full-width digits and letters
    letters = (range(0xB5, 0x700), range(0x1E00, 0x2000))
    marks = (range(0x302A, 0x3030), range(0x3099, 0x309B), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
    wide = (range(0xFF10, 0xFF1A), range(0xFF21, 0xFF3B), range(0xFF41, 0xFF5B))
    folds = {code: _fold(chr(code)) for code in itertools.chain(*letters, *marks, *wide)}
    return {code: folded for code, folded in folds.items() if folded != chr(code)}


_FOLDED = _fold_table()
_FOLDABLE = re.compile(f"[{''.join(chr(code) for code in _FOLDED if code < 0x10000)}\U000e0100-\U000e01ef]")


# what is asked for


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words that stand side by side, each a CJK run or a word of another script; the last one may go on."""

    words: tuple[str, ...]
    goes_on: bool


def _phrases(query: str) -> list[_Phrase]:
    found = []
    for quoted, closing, bare in _ASKED.findall(_folded(_composed(query))):
        for together in _OF_ONE_KIND.findall(bare) if bare else [quoted]:
            if words := _WORD.findall(together):
                found.append(_Phrase(tuple(words), goes_on=not closing))
    # only the last one is still being typed
    return [_Phrase(phrase.words, phrase.goes_on and phrase is found[-1]) for phrase in found]


def _is_cjk(word: str) -> bool:
    return _RUN.match(word) is not None


def _pairs(run: str) -> list[str]:
    """文字列 gives 文字, 字列 and 列."""
    return [*map(add, run, run[1:]), run[-1]]


def _expression(phrase: _Phrase) -> str:
    *before, last = phrase.words
    words = [pair for word in before for pair in (_pairs(word) if _is_cjk(word) else [word])]
    if not _is_cjk(last):
        return f'"{" ".join([*words, last])}"{"*" if phrase.goes_on else ""}'
    if len(last) == 1:  # the first half of a pair, or alone
        return f'"{" ".join([*words, last])}"*'
    return f'"{" ".join(words + _pairs(last)[:-1])}"'


# where it stands


class _Hit(NamedTuple):
    """A place where a phrase of the query stands, by the phrase's number."""

    start: int
    end: int
    phrase: int


def _hits(text: str, query: str) -> list[_Hit]:
    folded = _folded(text)
    places: Sequence[int] = range(len(text) + 1)
    if len(folded) < len(text):  # combining marks have vanished
        kept = [place for place, character in enumerate(text) if _FOLDED.get(ord(character)) != ""]
        places = [*kept, len(text)]
    hits = []
    for number, phrase in enumerate(dict.fromkeys(_phrases(query))):
        found = itertools.islice(_pattern(phrase).finditer(folded), _MOST_HITS)
        hits += [_Hit(places[each.start()], places[each.end()], number) for each in found]
    return sorted(hits)


def _pattern(phrase: _Phrase) -> re.Pattern[str]:
    first, last = phrase.words[0], phrase.words[-1]
    # looks behind the word instead of before it: a pattern that begins with text is found fast
    pattern = first if _is_cjk(first) else rf"{first}(?<!{_LETTER}{first})"
    for word, after in itertools.pairwise(phrase.words):
        pattern += (r"[\W_]+" if _is_cjk(word) == _is_cjk(after) else r"[\W_]*") + after
    if not _is_cjk(last):
        pattern += f"{_LETTER}*" if phrase.goes_on else f"(?!{_LETTER})"
    return re.compile(pattern)


def _passage(text: str, hits: Sequence[_Hit], width: int) -> tuple[int, int]:
    """Start and end of what is shown, with the hits in its middle: those of most phrases, then the most."""
    best: Sequence[_Hit] = ()
    best_score = (0, 0)
    end = 0
    for number, hit in enumerate(hits):
        while end < len(hits) and hits[end].end <= hit.start + width:
            end += 1
        together = hits[number:end] or [hit]
        score = (len({each.phrase for each in together}), len(together))
        if score > best_score:
            best, best_score = together, score
    if not best:
        return 0, _cut(text, 0, width)
    first, last = best[0].start, best[-1].end
    start = max(0, min(first - max(0, width - (last - first)) // 2, len(text) - width))
    cut = _cut(text, last, start + width)
    space = _SPACE.search(text, start, min(first, start + _FURTHEST_SPACE)) if start else None
    return space.end() if space else start, cut


def _cut(text: str, least: int, end: int) -> int:
    """`end`, or a space shortly before it, but not before `least`."""
    if end >= len(text):
        return len(text)
    spaces = _SPACE.finditer(text, max(least, end - _FURTHEST_SPACE), end + 1)
    return max((space.start() for space in spaces), default=end)


def _merged(hits: Sequence[_Hit]) -> Iterator[_Hit]:
    """The hits, those that overlap made one."""
    before: _Hit | None = None
    for hit in hits:
        if before is not None and hit.start < before.end:
            before = before._replace(end=max(before.end, hit.end))
            continue
        if before is not None:
            yield before
        before = hit
    if before is not None:
        yield before
