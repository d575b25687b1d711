"""Pieces that all dialects share: checked fields, and errors that name them."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from allod.sdk.errors import BadRequest, UnsupportedParameter

B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request's body: known fields are checked, strictly; unknown ones are kept for the engine to judge."""

    model_config = ConfigDict(strict=True, extra="allow")

    @classmethod
    def read(cls: type[B], body: dict[str, Any]) -> B:
        """The checked body. Raises BadRequest, which names the field and the reason."""
        _check_depth(body)
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            param = _param(first["loc"])
            said = f"{param}: {first['msg']}." if param else f"{first['msg']}."
            raise BadRequest(said, fix="See /docs for what it may be.", param=param or None) from None

    def refuse_others(self) -> None:
        """Raise UnsupportedParameter for a field that is not known."""
        for name in self.model_extra or ():
            raise UnsupportedParameter(
                f"There is no field {name[:60]!r} here.", fix="Leave it out.", param=name[:60]
            )


def _check_depth(body: dict[str, Any]) -> None:
    """Raise BadRequest for JSON that is nested more deeply than it could be written again, or a grammar made of it."""
    level: list[Any] = [body]
    for _ in range(_DEEPEST):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for some in children for child in some if isinstance(child, (dict, list))]
        if not level:
            return
    raise BadRequest(f"The body is nested more than {_DEEPEST} levels deep.", fix="Make it flatter.")


_DEEPEST = 128


def _param(location: tuple[int | str, ...]) -> str:
    """messages[0].content of ("messages", 0, "content", "str"): names of union branches are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z_]+", part) and part not in _BRANCHES:
            path += f".{part}" if path else part
    return path


_BRANCHES = frozenset({"str", "int", "float", "bool", "none", "list", "dict", "constrained"})


def seed_of(value: int | None) -> dict[str, int]:
    """`seed` as a keyword, folded into 31 bits; empty where none was given (-1 means none, as elsewhere)."""
    return {} if value is None or value == -1 else {"seed": value % (2**31 - 1)}


def limit_of(value: int | None, param: str) -> int | None:
    """A token limit: None and -1 mean none. Raises BadRequest for less than 1 and for more than 31 bits."""
    if value is None or value == -1:
        return None
    if not 1 <= value < 2**31:
        raise BadRequest(
            f"{param}: must be from 1 to {2**31 - 1}.", fix="Leave it out for no limit.", param=param
        )
    return value


def check_stop(stop: str | list[str] | None) -> None:
    """Raise BadRequest for an empty stop: it would end every answer before its first token."""
    if stop == "" or (isinstance(stop, list) and "" in stop):
        raise BadRequest("stop: holds an empty text.", fix="Leave it out.", param="stop")
