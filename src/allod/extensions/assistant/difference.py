"""What is other in one version of an assistant than in another, field by field."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from allod.extensions.assistant.content import Content


@dataclass(frozen=True, slots=True)
class Difference:
    """One field, and what stood in it. `diff` is a unified diff, of the instructions only.

    A parameter is named "parameters.temperature", and is None where it is not set.
    """

    field: str
    before: Any
    after: Any
    diff: str = ""


def differences(before: Content, after: Content) -> list[Difference]:
    """Every field that is not the same, in the order in which an assistant shows them."""
    old, new = _flat(before), _flat(after)
    return [
        Difference(field, old.get(field), new.get(field), _unified(field, old, new))
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field)
    ]


def changed_fields(before: Content, after: Content) -> list[str]:
    """The names of the fields that are not the same; parameters are one field."""
    old, new = before.model_dump(), after.model_dump()
    return [field for field in old if old[field] != new[field]]


def _flat(content: Content) -> dict[str, Any]:
    fields = content.model_dump()
    parameters = {f"parameters.{name}": value for name, value in fields.pop("parameters").items()}
    return fields | parameters


def _unified(field: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if field != "instructions":
        return ""
    lines = difflib.unified_diff(
        old[field].split("\n"), new[field].split("\n"), "before", "after", lineterm=""
    )
    return "\n".join(lines)
