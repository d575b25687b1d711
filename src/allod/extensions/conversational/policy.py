"""Which turns of a conversation a model is told of, where not all fit. Pure: looks at its arguments only.

What is left out is the oldest, so a cut changes the prompt near its beginning, and the engine has to read all that
follows anew. So a cut stays where it is as long as the prompt fits; when it must move, it moves a long way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allod.sdk.errors import ContextTooLong

_AFTER_CUT_PERCENT = 60
"""So much of the budget a prompt has after a cut; the rest is room to grow until the next one."""
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """A user message and all that follows it up to the next one. `id` is the user message's."""

    id: str
    tokens: int
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What the model is told: `kept` turns, oldest first. `tokens` counts them and the system text, not the reserve.

    `kept_from` is the first turn behind the cut, to be handed in the next time; None where nothing is left out.
    """

    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    kept_from: str | None
    tokens: int
    is_cut_anew: bool


def trim(
    turns: Sequence[Turn],
    *,
    system_tokens: int,
    budget_tokens: int,
    kept_from: str | None = None,
    reserve_tokens: int = 0,
) -> Trimmed:
    """The turns that fit in a prompt of `budget_tokens`, with the system text and the reserve.

    `turns` are those of the active path, oldest first; the last one is what is asked now. Everything, if it fits; else
    what the last cut, `kept_from`, leaves, if that fits; else a new cut, down to 60 % of the budget, or as near to it
    as can be: the system text, pinned turns and the last turn are never left out.
    `reserve_tokens` are for what is put behind the last turn. Hand in what that may have at most, not what it has this
    time: else a cut could come and go.

    Raises ContextTooLong where what is never left out has more tokens than the budget.
    """
    fixed = system_tokens + reserve_tokens
    sizes = [fixed + size for size in _sizes(turns)]  # of the prompt that is cut before each turn
    last = max(0, len(turns) - 1)
    if sizes[last] > budget_tokens:
        raise _too_long(turns, system_tokens, budget_tokens, reserve_tokens)

    before = next((place for place, turn in enumerate(turns) if turn.id == kept_from), 0)
    if sizes[0] <= budget_tokens:
        cut = 0
    elif sizes[before] <= budget_tokens:
        cut = before
    else:
        goal = budget_tokens * _AFTER_CUT_PERCENT // 100
        cut = next((place for place in range(last) if sizes[place] <= goal), last)
    is_left_out = [place < cut and not turn.is_pinned for place, turn in enumerate(turns)]
    return Trimmed(
        kept=tuple(turn.id for turn, is_out in zip(turns, is_left_out, strict=True) if not is_out),
        left_out=tuple(turn.id for turn, is_out in zip(turns, is_left_out, strict=True) if is_out),
        kept_from=turns[cut].id if cut else None,
        tokens=sizes[cut] - reserve_tokens,
        is_cut_anew=cut not in (0, before),
    )


def _sizes(turns: Sequence[Turn]) -> list[int]:
    """For a cut before each turn: the tokens of that turn, all after it, and the pinned ones before it."""
    sizes = [sum(turn.tokens for turn in turns)]
    for turn in turns[:-1]:
        sizes.append(sizes[-1] - (0 if turn.is_pinned else turn.tokens))
    return sizes


def _too_long(turns: Sequence[Turn], system: int, budget: int, reserve: int) -> ContextTooLong:
    last = turns[-1].tokens if turns else 0
    pinned = sorted((turn for turn in turns[:-1] if turn.is_pinned), key=lambda turn: -turn.tokens)
    pinned_tokens = sum(turn.tokens for turn in pinned)
    needed = system + pinned_tokens + last + reserve
    detail = (
        f"What cannot be left out has {needed} tokens: system text {system}, pinned {pinned_tokens},"
        f" last turn {last}, reserve {reserve}. The budget is {budget}."
    )
    raised = f"raise the budget (of the thread, or the context of the model) to {needed} tokens"
    if needed - pinned_tokens > budget:
        return ContextTooLong(detail, fix=f"Shorten the last message, or {raised}.")
    unpinned: list[str] = []
    while needed > budget:
        needed -= pinned[len(unpinned)].tokens
        unpinned.append(pinned[len(unpinned)].id)
    named = ", ".join(repr(each) for each in unpinned[:_MOST_NAMED])
    more = f" and {len(unpinned) - _MOST_NAMED} more" if len(unpinned) > _MOST_NAMED else ""
    return ContextTooLong(detail, fix=f"Unpin the turn of {named}{more}, or {raised}.")
