"""A figure: a value, the goal that it is held against, and how the table shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One line. `goal` None: no goal, told because it explains the others. `note` says what else was seen."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    is_better: Literal["higher", "lower"] = "lower"
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.is_better == "higher" else self.value <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "is_met": self.is_met}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are no larger than."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def table(figures: Sequence[Figure]) -> str:
    """All figures, one on a line."""
    rows = [("figure", "value", "goal", "", "")]
    for figure in figures:
        sign = "≥" if figure.is_better == "higher" else "≤"
        goal = "" if figure.goal is None else f"{sign} {_number(figure.goal)}"
        met = {True: "met", False: "MISSED", None: ""}[figure.is_met]
        rows.append((figure.name, f"{_number(figure.value)} {figure.unit}".strip(), goal, met, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
