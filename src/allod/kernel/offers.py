"""What an engine can do beyond answering, asked for on every request."""

from __future__ import annotations

from typing import TypeVar

from typing_extensions import TypeIs

K = TypeVar("K")
_KNOWN: dict[tuple[type, type], bool] = {}


def offers(engine: object, kind: type[K]) -> TypeIs[K]:
    """isinstance(engine, kind), remembered by class: for a Protocol it looks at every member each time."""
    key = (type(engine), kind)
    if key not in _KNOWN:
        _KNOWN[key] = isinstance(engine, kind)
    return _KNOWN[key]
