"""What an extension's kinds of jobs must be like, and what a job may be asked with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from allod.sdk.errors import BadRequest, ExtensionFailed
from allod.sdk.jobs import JobKind

_REPORT = "Report it to the author of the extension."
_OWN_WORDS = {"value_error", "assertion_error", "union_tag_invalid", "import_error", "get_attribute_error"}
"""Kinds of error in pydantic whose message may quote what was given."""


def check_kinds(extension: str, kinds: Sequence[JobKind[Any]]) -> None:
    """Raises ExtensionFailed, which says what is wrong with one of them."""
    names = [kind.name for kind in kinds]
    for kind in kinds:
        problem = ""
        if names.count(kind.name) > 1:
            problem = "is there twice"
        elif not isinstance(getattr(kind, "title", None), str):
            problem = "has no title"
        elif not isinstance(kind.at_once, int) or kind.at_once < 1:
            problem = f"has at_once = {kind.at_once!r}"
        if problem:
            raise ExtensionFailed(f"The kind of job {kind.name!r} of {extension!r} {problem}.", fix=_REPORT)


def check_parameters(extension: str, kind: JobKind[Any], parameters: BaseModel, as_json: str) -> None:
    """Raises ExtensionFailed where the job could not read what is kept of its parameters."""
    if not isinstance(parameters, kind.parameters) or not _is_read_again(kind, as_json):
        raise ExtensionFailed(
            f"A job {kind.name!r} of {extension!r} cannot be asked with {type(parameters).__name__}.",
            fix=_REPORT,
        )


def _is_read_again(kind: JobKind[Any], as_json: str) -> bool:
    try:
        kind.parameters.model_validate_json(as_json)
    except ValidationError:
        return False
    return True


def read_parameters(kind: JobKind[Any], given: Mapping[str, Any]) -> BaseModel:
    """`given`, JSON from outside, as the kind wants it. Raises BadRequest, which names the field and quotes nothing."""
    try:
        return kind.parameters.model_validate_json(orjson.dumps(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = _field(kind.parameters, first) or "parameters"
    raise BadRequest(
        f"A job {kind.name!r} cannot be asked like this. {field}: {_reason(first)}.",
        fix="Correct it, and try again.",
        param=field,
    )


def _field(model: type[BaseModel], error: ErrorDetails) -> str:
    """The field of `model` that is meant; what lies deeper may be a key that was given."""
    names = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    return next((str(part) for part in error["loc"][:1] if part in names), "")


def _reason(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "there is a field that it does not have"
    is_quiet = error["type"] in get_args(ErrorType) and error["type"] not in _OWN_WORDS
    return error["msg"] if is_quiet else "it is not valid"
