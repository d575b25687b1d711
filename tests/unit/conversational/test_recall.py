"""Which sentences of what is left out are told all the same."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.conversational.recall import BYTES_PER_TOKEN, Said, recalled


def found(said: Sequence[tuple[str, str]], question: str, budget: int = 100) -> list[str]:
    messages = [Said(str(place), who == "user", text) for place, (who, text) in enumerate(said)]
    return [passage.text for passage in recalled(messages, question, budget)]


def test_words_in_common_go_first() -> None:
    said = [
        ("user", "The crane flies north."),
        ("user", "The bus is late."),
        ("assistant", "Cranes migrate."),
    ]
    assert found(said, "What of the cranes?", 10) == ["The crane flies north."]


def test_a_fact_is_found_though_the_question_has_other_words() -> None:
    said = [
        ("user", "Please write a headline."),
        ("assistant", "Here is one that is short."),
        ("user", "My dog Bruno is six now. Could you translate it?"),
        ("user", "Why is the sky blue?"),
    ]
    assert found(said, "How old is my pet?", 12) == ["My dog Bruno is six now."]


def test_chinese_is_found_by_its_pairs() -> None:
    said = [("user", "合同六月到期。"), ("user", "请把这句话改短。"), ("assistant", "好的。")]
    assert found(said, "合同何时结束？", 10) == ["合同六月到期。"]


def test_questions_and_wishes_are_no_facts() -> None:
    assert found([("user", "What is the time?"), ("user", "Give me a list.")], "What is it?") == []


def test_what_is_said_twice_is_told_once_where_it_was_said_last() -> None:
    said = [Said("1", True, "I live in Bath."), Said("2", True, "I live in Bath.")]
    (passage,) = recalled(said, "Where do I live?", 100)
    assert passage.message == "2"


@given(
    st.lists(st.tuples(st.booleans(), st.text(max_size=200)), max_size=20),
    st.text(max_size=50),
    st.integers(0, 300),
)
def test_never_over_budget_and_in_order(said: list[tuple[bool, str]], question: str, budget: int) -> None:
    messages = [Said(str(place), by_user, text) for place, (by_user, text) in enumerate(said)]
    passages = recalled(messages, question, budget)
    assert sum(len(passage.text.encode()) for passage in passages) <= budget * BYTES_PER_TOKEN
    assert len({passage.text for passage in passages}) == len(passages)
    places = [int(passage.message) for passage in passages]
    assert places == sorted(places)
    assert recalled(messages, question, budget) == passages
