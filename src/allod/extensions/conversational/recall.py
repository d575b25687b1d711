"""What of the turns that are left out is told all the same: sentences that may hold what is asked for. Pure.

A question often shares no word with the fact that answers it ("what is my dog called?" – "Bruno is six now"). So words
in common are one sign among several: people tell facts of themselves, with names and numbers, in plain sentences.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from allod.extensions.conversational.words import terms

BYTES_PER_TOKEN = 3
"""Few enough that what is chosen by bytes stays within its tokens, in English as in Chinese."""
_LONGEST = 400
_SENTENCES = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
_SIGNS = (
    (re.compile(r"\b(?:i|i'm|i've|my|mine|me|we|our|us)\b|我|咱|俺", re.IGNORECASE), 1.0),  # of oneself
    (
        re.compile(r"\d|[一二三四五六七八九十百千]|(?<=[a-z,;'] )[A-Z][a-z]|[“「《\"]"),
        0.5,
    ),  # a number, a name
    (
        re.compile(r"\b(?:is|are|am|was|were|has|have|had)\b|'m\b|'s\b|是|叫|在|有|姓", re.IGNORECASE),
        0.5,
    ),  # a state
)
_WISH = re.compile(
    r"(?:please|can|could|would|will|let|give|make|write|add|list|show|tell|explain|translate|turn|check|try|now|thanks?|ok)\b"
    r"|请|帮|再|谢|给我|把",
    re.IGNORECASE,
)
"""What wants something done, and tells nothing."""
_ENDINGS = re.compile(r"(?:ies|ing|ed|es|s)?e?$")
_EVERYWHERE = frozenset(
    "a an and any are at be been but by can could did do does for from had has have how i if in is it its me my no"
    " not of on or our so that the their there they this to was we were what when where which who why will with would"
    " you your 什么 么 吗 的 了 是".split()
)
"""Words that say nothing of what is asked."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message that is left out: its id, who said it, its text."""

    id: str
    by_user: bool
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence worth telling, and the message that it is from."""

    message: str
    text: str


def recalled(said: Sequence[Said], question: str, budget_tokens: int) -> list[Passage]:
    """The sentences of `said` (oldest first) that fit the question best, in their order, within the budget."""
    # what is said twice counts where it was said last
    everything = list(_sentences(said))
    last = {text: place for place, (_, text) in enumerate(everything)}
    sentences = [everything[place] for place in sorted(last.values())]
    words = [_stems(sentence) for _, sentence in sentences]
    asked = _stems(question)
    known = Counter(stem for stems in words for stem in stems)
    scored = []
    for place, (message, sentence) in enumerate(sentences):
        common = sum(math.log(1 + len(sentences) / known[stem]) for stem in asked & words[place])
        score = common + _telling(message, sentence)
        if score > 0:
            scored.append((-score, place))
    chosen, left = [], budget_tokens * BYTES_PER_TOKEN
    for _, place in sorted(scored):
        size = len(sentences[place][1].encode()) + 2
        if size <= left:
            left -= size
            chosen.append(place)
    return [Passage(sentences[place][0].id, sentences[place][1]) for place in sorted(chosen)]


def _sentences(said: Iterable[Said]) -> Iterable[tuple[Said, str]]:
    for message in said:
        for found in _SENTENCES.finditer(message.text):
            if sentence := " ".join(found[0].split())[:_LONGEST]:
                yield message, sentence


def _telling(message: Said, sentence: str) -> float:
    """How much it looks like a fact that somebody may ask for later."""
    if sentence.endswith(("?", "？")):
        return -2.0
    if _WISH.match(sentence):
        return -1.0
    score = 1.0 if message.by_user else -0.5
    for sign, weight in _SIGNS:
        if sign.search(sentence):
            score += weight
    return score


def _stems(text: str) -> set[str]:
    """Its telling words, without case, accents and the commonest endings; Chinese as pairs."""
    return {_ENDINGS.sub("", term) if len(term) > 4 else term for term in terms(text) - _EVERYWHERE}
