"""Which turns a model is told of: the laws of the one pure function that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.conversational.policy import Trimmed, Turn, trim
from allod.sdk.errors import ContextTooLong

_SIZES = st.integers(0, 60)


@dataclass(frozen=True)
class Case:
    turns: list[Turn]
    system: int
    budget: int
    kept_from: str | None
    reserve: int

    def trimmed(self) -> Trimmed:
        return trim(
            self.turns,
            system_tokens=self.system,
            budget_tokens=self.budget,
            kept_from=self.kept_from,
            reserve_tokens=self.reserve,
        )

    def never_left_out(self) -> list[Turn]:
        return [turn for turn in self.turns[:-1] if turn.is_pinned] + self.turns[-1:]

    def least(self) -> int:
        return self.system + self.reserve + sum(turn.tokens for turn in self.never_left_out())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.tuples(_SIZES, st.sampled_from([False, False, False, True])), max_size=25))
    turns = [Turn(f"m{number}", tokens, pinned) for number, (tokens, pinned) in enumerate(sizes)]
    kept_from = draw(st.none() | st.sampled_from([turn.id for turn in turns] + ["elsewhere"]))
    return Case(turns, draw(_SIZES), draw(st.integers(1, 500)), kept_from, draw(st.integers(0, 40)))


@st.composite
def fitting(draw: st.DrawFn) -> Case:
    """Cases in which what must stay fits."""
    case = draw(cases())
    return replace(case, budget=case.least() + draw(st.integers(0, 300)))


@st.composite
def cut_anew(draw: st.DrawFn) -> Case:
    """Cases in which something has to be left out, and no cut is there yet."""
    case = replace(draw(fitting()), kept_from=None)
    first = Turn("first", case.budget + 61)
    return replace(case, turns=[first, *case.turns, Turn("last", draw(_SIZES))], budget=case.budget + 60)


def turns_of(*sizes: int, pinned: Sequence[int] = ()) -> list[Turn]:
    return [Turn(f"m{number}", size, number in pinned) for number, size in enumerate(sizes)]


@given(cases())
def test_never_over_budget_and_nothing_is_left_out_that_must_stay(case: Case) -> None:
    if case.least() > case.budget:
        with pytest.raises(ContextTooLong):
            case.trimmed()
        return
    trimmed = case.trimmed()
    sizes = {turn.id: turn.tokens for turn in case.turns}
    assert trimmed.tokens == case.system + sum(sizes[kept] for kept in trimmed.kept)
    assert trimmed.tokens + case.reserve <= case.budget
    assert {turn.id for turn in case.never_left_out()} <= set(trimmed.kept)


@given(fitting())
def test_order_is_kept_and_the_oldest_are_left_out(case: Case) -> None:
    trimmed = case.trimmed()
    ids = [turn.id for turn in case.turns]
    assert [id for id in ids if id in trimmed.kept] == list(trimmed.kept)
    assert [id for id in ids if id in trimmed.left_out] == list(trimmed.left_out)
    assert sorted(trimmed.kept + trimmed.left_out) == sorted(ids)
    if trimmed.kept_from is None:
        assert trimmed.left_out == ()
        return
    cut = ids.index(trimmed.kept_from)
    assert trimmed.left_out == tuple(turn.id for turn in case.turns[:cut] if not turn.is_pinned)


@given(fitting())
def test_everything_is_kept_where_it_fits_and_only_there(case: Case) -> None:
    whole = case.system + case.reserve + sum(turn.tokens for turn in case.turns)
    assert (whole <= case.budget) == (case.trimmed().left_out == ())


@given(fitting())
def test_the_same_turns_are_cut_in_the_same_place(case: Case) -> None:
    first = case.trimmed()
    assert case.trimmed() == first
    again = Case(case.turns, case.system, case.budget, first.kept_from, case.reserve).trimmed()
    assert not again.is_cut_anew
    assert (again.kept, again.kept_from, again.tokens) == (first.kept, first.kept_from, first.tokens)


@given(cut_anew())
def test_a_cut_goes_down_to_60_percent_and_no_turn_further(case: Case) -> None:
    trimmed = case.trimmed()
    assert trimmed.is_cut_anew
    goal = case.budget * 60 // 100
    sizes = {turn.id: turn.tokens for turn in case.turns}
    assert trimmed.tokens + case.reserve <= max(goal, case.least())
    assert trimmed.tokens + case.reserve + sizes[trimmed.left_out[-1]] > goal


@given(
    st.lists(st.integers(50, 350), min_size=100, max_size=100),
    st.integers(0, 1000),
    st.sets(st.integers(0, 99), max_size=4),
)
def test_in_a_growing_chat_the_cut_moves_at_most_every_tenth_turn(
    sizes: list[int], system: int, pinned: set[int]
) -> None:
    """Where no turn has more than 3.5 % of the budget, and what never leaves less than 60 %."""
    turns = turns_of(*sizes, pinned=list(pinned))
    kept_from = None
    moved, starts = [], []
    for number in range(1, 101):
        trimmed = trim(turns[:number], system_tokens=system, budget_tokens=10_000, kept_from=kept_from)
        if trimmed.is_cut_anew:
            moved.append(number)
        else:
            assert trimmed.kept_from == kept_from
        kept_from = trimmed.kept_from
        starts.append(0 if kept_from is None else int(kept_from[1:]))
    assert len(moved) <= 10
    assert all(later - earlier >= 10 for earlier, later in pairwise(moved))
    assert starts == sorted(starts)


def test_pinned_turns_before_the_cut_stay_in_their_order() -> None:
    turns = turns_of(10, 20, 10, 20, 20, 20, pinned=[0, 2])
    trimmed = trim(turns, system_tokens=10, budget_tokens=100)
    assert trimmed == Trimmed(("m0", "m2", "m5"), ("m1", "m3", "m4"), "m5", 50, True)


def test_a_cut_that_still_fits_stays_though_another_would_be_nearer_to_the_goal() -> None:
    turns = turns_of(30, 30, 30, 30)
    trimmed = trim(turns, system_tokens=0, budget_tokens=100, kept_from="m1")
    assert (trimmed.kept, trimmed.is_cut_anew) == (("m1", "m2", "m3"), False)


def test_a_cut_in_a_branch_that_is_not_shown_is_forgotten() -> None:
    trimmed = trim(turns_of(30, 30, 30, 30), system_tokens=0, budget_tokens=100, kept_from="other branch")
    assert (trimmed.kept_from, trimmed.is_cut_anew) == ("m2", True)


def test_a_larger_budget_brings_everything_back() -> None:
    trimmed = trim(turns_of(30, 30, 30), system_tokens=0, budget_tokens=200, kept_from="m2")
    assert trimmed == Trimmed(("m0", "m1", "m2"), (), None, 90, False)


def test_no_turn_at_all() -> None:
    assert trim([], system_tokens=10, budget_tokens=10) == Trimmed((), (), None, 10, False)


def test_too_long_says_what_to_unpin_largest_first_or_what_budget_is_needed() -> None:
    turns = turns_of(30, 10, 60, 5, 20, pinned=[0, 1, 2])
    with pytest.raises(ContextTooLong) as raised:
        trim(turns, system_tokens=10, budget_tokens=80, reserve_tokens=5)
    assert raised.value.detail == (
        "What cannot be left out has 135 tokens: system text 10, pinned 100, last turn 20, reserve 5."
        " The budget is 80."
    )
    assert raised.value.fix == (
        "Unpin the turn of 'm2', or raise the budget (of the thread, or the context of the model) to 135 tokens."
    )


def test_too_long_does_not_ask_to_unpin_what_would_not_help() -> None:
    with pytest.raises(ContextTooLong) as raised:
        trim(turns_of(10, 200, pinned=[0]), system_tokens=10, budget_tokens=100)
    assert "Unpin" not in raised.value.fix
    assert "220 tokens" in raised.value.fix


def test_too_long_names_a_few_of_many() -> None:
    with pytest.raises(ContextTooLong, match="pinned 80") as raised:
        trim(turns_of(*[10] * 9, pinned=range(8)), system_tokens=0, budget_tokens=20)
    assert "'m4' and 2 more, or" in raised.value.fix
